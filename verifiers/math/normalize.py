r"""One spelling for the many that LaTeX, unicode and Python have for the same thing.

``normalize`` changes how an answer is written, never what it says: no unit, sign, bracket or base is dropped.
Its results are for ``tokens.py`` and for comparing texts; each step is linear in the length.
"""

import re


def vocabulary(words: str) -> frozenset[str]:
    """The words of a text between blanks."""
    return frozenset(words.split())


CHARACTERS = str.maketrans(
    {
        "\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-",
        "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u2217": "*", "\u00f7": "\\div ",
        "\u2044": "/", "\u2215": "/", "\u2236": ":", "\u2264": "\\leq ", "\u2265": "\\geq ",
        "\u2260": "\\neq ", "\u2248": "\\approx ", "\u2261": "\\equiv ", "\u00b1": "\\pm ", "\u2213": "\\mp ",
        "\u221a": "\\sqrt ", "\u03c0": "\\pi ", "\u221e": "\\infty ", "\u222a": "\\cup ", "\u2229": "\\cap ",
        "\u2208": "\\in ", "\u2205": "\\emptyset ", "\u2216": "\\setminus ", "\u00b0": "^\\circ ",
        "\u00b2": "^2", "\u00b3": "^3", "\u00b9": "^1", "\u00bd": "\\frac{1}{2}", "\u00bc": "\\frac{1}{4}",
        "\u00be": "\\frac{3}{4}", "\u2026": "\\ldots ", "\u2032": "'", "\u2019": "'", "\u20ac": "\\euro ",
        "\u00a3": "\\pounds ", "\u27e8": "\\langle ", "\u27e9": "\\rangle ", "\u211d": "\\mathbb{R}",
        "\u2124": "\\mathbb{Z}", "\u03b1": "\\alpha ", "\u03b2": "\\beta ", "\u03b3": "\\gamma ",
        "\u03b8": "\\theta ", "\u03bb": "\\lambda ", "\u03bc": "\\mu ", "\u03c3": "\\sigma ",
        "\u03c6": "\\phi ", "\u03c9": "\\omega ",
    }
    | dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f\u3000", " ")
)  # fmt: skip
SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac", "sfrac": "frac",
    "le": "leq", "ge": "geq", "leqslant": "leq",
    "geqslant": "geq", "ne": "neq", "lor": "vee", "land": "wedge", "varnothing": "emptyset",
    "dbinom": "binom", "tbinom": "binom", "dots": "ldots", "cdots": "ldots", "varphi": "phi",
    "varepsilon": "epsilon", "bmod": "mod", "gets": "leftarrow", "implies": "Rightarrow", "bar": "overline",
    "lang": "langle", "rang": "rangle",
}  # fmt: skip
SYMBOLS = {
    "lbrace": "\\{", "rbrace": "\\}", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "times": "*",
    "cdot": "*", "ast": "*", "div": "/", "lt": "<", "gt": ">", "colon": ":", "degree": "^\\circ ",
    "lbrack": "[", "rbrack": "]", "quad": "  ", "qquad": "  ", "space": " ",
}  # fmt: skip
DROPPED = vocabulary(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle"
    " scriptstyle limits nolimits strut hfill underline"
)
FUNCTIONS = vocabulary("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp sqrt gcd lcm max min")
NUMBER_SETS = {"R": "reals", "Z": "integers", "N": "naturals", "Q": "rationals", "C": "complexes"}
COMMAND = re.compile(r"\\([A-Za-z]+) ?")
TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|it|sf|normal)|mbox|hbox|operatorname\*?|boldsymbol)"
    r" ?\{([^{}]*)\}"
)
NUMBER_SET = re.compile(r"\\(?:mathbb|mathbf|Bbb) ?(?:\{([RZNQC])\}|([RZNQC]))|\\(R)(?![A-Za-z])")
COLOR = re.compile(r"\\(?:text)?color ?\{[A-Za-z]{1,20}\}")
SPACES = re.compile(r"\\[,;: >]|~|[\t\r\n]|\\hspace ?\{[^{}]*\}")
LONE_DOLLAR = re.compile(r"([-+]?) ?\$ ?(?=[0-9.])")
TRAILING = ".,;: "


def normalize(text: str) -> str:
    """``text`` in one spelling: ``\\dfrac12`` and ``\\frac 12``, ``\\left[`` and ``[``, ``**`` and ``^``.

    Commands end in exactly one blank, row breaks are ``\\cr ``, currency signs are ``\\dollar `` and kin.
    """
    text = text.translate(CHARACTERS).replace("\\\\", "\\cr ").replace("...", "\\ldots ")
    text = _without_delimiters(text).replace("\\!", "").replace("{,}", ",").replace("\\%", "%")
    text = NUMBER_SET.sub(lambda m: f"\\{NUMBER_SETS[m.group(1) or m.group(2) or m.group(3)]} ", text)
    text = TEXT.sub(_text, SPACES.sub(" ", COLOR.sub("", text)))
    text = COMMAND.sub(_command, text).replace("^{\\circ }", "^\\circ ").replace("^ \\circ", "^\\circ")
    for old, new in (("**", "^"), ("<=", "\\leq "), (">=", "\\geq "), ("!=", "\\neq "), ("==", "=")):
        text = text.replace(old, new)
    text = re.sub(r"(?<=[0-9]) ?x ?(?=10 ?\^)", "*", text)
    return text.strip().lstrip("=: ").rstrip(TRAILING).strip()


def key(normal: str) -> str:
    """Normalised text without the blanks that mean nothing: equal keys are the same answer.

    A blank between two digits stays, since ``6 5`` is not 65.
    """
    return re.sub(r"(?<![0-9 ]) +| +(?![0-9 ])", "", normal)


def _without_delimiters(text: str) -> str:
    """Without math delimiters; a dollar sign that stands alone before a number is a currency."""
    text = text.replace("\\$", "\\dollar ")
    for delimiter in ("\\(", "\\)", "\\[", "\\]"):
        text = text.replace(delimiter, " ")
    if text.count("$") % 2:
        text = LONE_DOLLAR.sub(r"\1\\dollar ", text, count=1)
    return text.replace("$", " ")


def _text(match: re.Match[str]) -> str:
    content = match.group(1).strip()
    return f"\\{content} " if content in FUNCTIONS else f"\\text{{{content}}}"


def _command(match: re.Match[str]) -> str:
    name = match.group(1)
    if name in DROPPED:
        return ""
    if name in SYMBOLS:
        return SYMBOLS[name]
    name = SYNONYMS.get(name, name)
    return f"\\{name}" if name == "text" else f"\\{name} "
