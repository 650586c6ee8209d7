r"""Converts Unicode to TeX: each character that means the same as a command becomes that command.

Superscripts, subscripts and fractions come from the decompositions of the Unicode standard (``⁻³``, ``ₙ``, ``⅔``). A
root sign takes the whole numeral behind it. Digits of other scripts are not mapped: ``prefilter.py`` refuses them.
"""

import functools
import re
import unicodedata

# By kind: minus signs and dashes, products and quotients, relations, constants and sets, degrees, quotation marks,
# currencies, brackets, number sets, logic and arrows, large operators, East Asian punctuation. The rest vanishes.
TABLE = {
    "\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\ufe63": "-",
    "\u00d7": "\\times ", "\u2715": "\\times ", "\u2a2f": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ",
    "\u2219": "\\cdot ", "\u2022": "\\cdot ", "\u2217": "*", "\u00f7": "\\div ", "\u2044": "/", "\u2215": "/",
    "\u2236": ":", "\u2264": "\\leq ", "\u2265": "\\geq ", "\u2266": "\\leq ", "\u2267": "\\geq ", "\u2a7d": "\\leq ",
    "\u2a7e": "\\geq ", "\u2260": "\\neq ", "\u2248": "\\approx ", "\u2252": "\\approx ", "\u2243": "\\simeq ",
    "\u2245": "\\cong ", "\u223c": "\\sim ", "\u221d": "\\propto ", "\u2261": "\\equiv ", "\u00b1": "\\pm ",
    "\u2213": "\\mp ", "\u03c0": "\\pi ", "\u221e": "\\infty ", "\u222a": "\\cup ", "\u2229": "\\cap ",
    "\u2208": "\\in ", "\u2209": "\\notin ", "\u2205": "\\emptyset ", "\u2216": "\\setminus ", "\u00b0": "^\\circ ",
    "\u02da": "^\\circ ", "\u00ba": "^\\circ ", "\u2218": "\\circ ", "\u2103": "^\\circ \\text{C}",
    "\u2109": "^\\circ \\text{F}", "\u2026": "\\ldots ", "\u22ef": "\\ldots ", "\u2032": "'", "\u2019": "'",
    "\u2018": "'", "\u2033": "''", "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"',
    "\u300c": '"', "\u300d": '"', "\u300e": '"', "\u300f": '"', "\u20ac": "\\euro ", "\u00a3": "\\pounds ",
    "\u00a5": "\\yen ", "\uffe5": "\\yen ", "\u20b9": "\\rupee ", "\u20a8": "\\rupee ", "\u20a9": "\\won ",
    "\u20bd": "\\ruble ", "\u00a2": "\\text{ cents}", "\uffe0": "\\text{ cents}", "\uff04": "$",
    "\u27e8": "\\langle ", "\u27e9": "\\rangle ", "\u2329": "\\langle ", "\u232a": "\\rangle ",
    "\u230a": "\\lfloor ", "\u230b": "\\rfloor ", "\u2308": "\\lceil ", "\u2309": "\\rceil ",
    "\u211d": "\\mathbb{R}", "\u2124": "\\mathbb{Z}", "\u2115": "\\mathbb{N}", "\u211a": "\\mathbb{Q}",
    "\u2102": "\\mathbb{C}", "\u2220": "\\angle ", "\u25b3": "\\triangle ", "\u2016": "\\|", "\u2223": "|",
    "\u2227": "\\wedge ", "\u2228": "\\vee ", "\u2192": "\\rightarrow ", "\u21d2": "\\Rightarrow ",
    "\u21d4": "\\iff ", "\u27f9": "\\Rightarrow ", "\u222b": "\\int ", "\u2211": "\\sum ", "\u220f": "\\prod ",
    "\u2126": "\\Omega ", "\u00b5": "\\mu ", "\u22a4": "\\top ", "\u3001": ",", "\u3002": ".", "\uff0e": ".",
    "\u3010": "[", "\u3011": "]", "\u3014": "(", "\u3015": ")", "\u2113": "\\ell ", "\u2030": "\\permille ",
    "\u210e": "h", "\ufe0f": "", "\u200b": "", "\u2060": "", "\ufeff": "",
} | dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " ")  # fmt: skip
GREEK = {
    "\u03b1": "alpha", "\u03b2": "beta", "\u03b3": "gamma", "\u03b4": "delta", "\u03b5": "epsilon", "\u03b6": "zeta",
    "\u03b7": "eta", "\u03b8": "theta", "\u03ba": "kappa", "\u03bb": "lambda", "\u03bc": "mu", "\u03bd": "nu",
    "\u03be": "xi", "\u03c1": "rho", "\u03c3": "sigma", "\u03c4": "tau", "\u03c6": "phi", "\u03d5": "phi",
    "\u03c7": "chi", "\u03c8": "psi", "\u03c9": "omega", "\u0393": "Gamma", "\u0394": "Delta", "\u0398": "Theta",
    "\u039b": "Lambda", "\u03a3": "Sigma", "\u03a6": "Phi", "\u03a8": "Psi", "\u03a9": "Omega",
}  # fmt: skip
ROOTS = {"\u221a": "\\sqrt", "\u221b": "\\sqrt[3]", "\u221c": "\\sqrt[4]"}
# The tags that ``unicodedata.decomposition`` puts in front of such characters.
RAISED = "<super>"
LOWERED = "<sub>"
# With thousands: the root of 1,000 must not be the root of 1.
ROOT = re.compile(r"([\u221a\u221b\u221c]) ?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:\.[0-9]+)?)?")
# Raised digits, a slash, lowered digits, as people write fractions that have no character of their own.
FRACTION_SLASH = re.compile(r"\^\{([0-9]+)\}[/\u2044]_\{([0-9]+)\}")


def to_tex(text: str) -> str:
    """Return ``text`` with each character outside of ASCII that TeX can spell replaced by that spelling."""
    if text.isascii():
        return text
    pieces: list[str] = []
    script = ""
    for character in text:
        kind, plain = _spelling(character)
        if kind != script:  # one group for all of x⁻¹², since TeX refuses x^{-}^{1}^{2}
            pieces.append("}" if script else "")
            pieces.append({RAISED: "^{", LOWERED: "_{"}.get(kind, ""))
            script = kind
        pieces.append(plain)
    tex = "".join(pieces) + ("}" if script else "")
    tex = FRACTION_SLASH.sub(r"\\frac{\1}{\2}", tex).replace("\u2044", "/")
    return ROOT.sub(_root, tex)


@functools.lru_cache(maxsize=4096)
def _spelling(character: str) -> tuple[str, str]:
    """Return the script (raised, lowered or ``""``) and the plain spelling of one character."""
    if character < "\x7f" or character == "\u2044":
        return "", character
    if character in TABLE:
        return "", TABLE[character]
    if character in GREEK:
        return "", f"\\{GREEK[character]} "
    # The longest decomposition has 18 parts, a phrase in Arabic; nothing that is mapped has more than 8.
    kind, *codes = unicodedata.decomposition(character).split()[:9] or [""]
    plain = "".join(chr(int(code, 16)) for code in codes)
    if kind in (RAISED, LOWERED):
        return kind, "".join(_spelling(part)[1] for part in plain)
    if kind == "<fraction>":
        top, _, bottom = plain.partition("\u2044")
        return "", f"\\frac{{{top}}}{{{bottom}}}"
    # Full-width and styled letters are plain letters. Such digits are not mapped: the prefilter refuses them.
    if kind in ("<wide>", "<font>", "<small>", "<vertical>") and not plain.isdigit():
        return "", "".join(_spelling(part)[1] for part in plain)
    return "", character


def _root(match: re.Match[str]) -> str:
    command = ROOTS[match.group(1)]
    return f"{command}{{{match.group(2)}}}" if match.group(2) else f"{command} "
