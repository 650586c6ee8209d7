r"""Rewrites an answer to one spelling of the many that LaTeX, Unicode, markdown and Python have for the same thing.

``normalize`` changes the notation and never the value: no unit, sign, bracket or base is dropped. ``tokens.py`` reads
the result, and equal results are equal answers. Each step is linear in the length.
"""

import re
from functools import lru_cache

from rlserve.verifiers.math.notation.characters import to_tex


def vocabulary(words: str) -> frozenset[str]:
    """Return the words of a text, which blanks separate."""
    return frozenset(words.split())


# Left: what answers contain. Right: the one name that every module behind this one knows.
SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac", "sfrac": "frac",
    "le": "leq", "ge": "geq", "leqslant": "leq", "leqq": "leq", "geqq": "geq",
    "geqslant": "geq", "ne": "neq", "lor": "vee", "land": "wedge", "varnothing": "emptyset",
    "dbinom": "binom", "tbinom": "binom", "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "varphi": "phi",
    "varepsilon": "epsilon", "vartheta": "theta", "bmod": "mod", "gets": "leftarrow",
    "implies": "Rightarrow", "bar": "overline", "lang": "langle", "rang": "rangle", "backslash": "setminus",
    "doteq": "approx", "thickapprox": "approx", "infin": "infty", "infinity": "infty", "bigcup": "cup",
    "smallsetminus": "setminus", "arctg": "arctan", "tg": "tan", "ctg": "cot",
    "texteuro": "euro", "textsterling": "pounds", "textyen": "yen", "textdollar": "dollar",
    "mathdollar": "dollar", "widehat": "hat", "measuredangle": "angle", "ohm": "Omega",
}  # fmt: skip
# Commands that ASCII has a character for. A blank at the end keeps "\degree C" from becoming "\circC".
SYMBOLS = {
    "lbrace": "\\{", "rbrace": "\\}", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "times": "*",
    "lVert": "\\|", "rVert": "\\|", "Vert": "\\|", "cdot": "*", "ast": "*", "bullet": "*", "div": "/", "lt": "<",
    "gt": ">", "colon": ":", "degree": "^\\circ ", "lbrack": "[", "rbrack": "]", "quad": "  ", "qquad": "  ",
    "space": " ", "enspace": " ", "thinspace": " ", "nobreakspace": " ", "lparen": "(", "rparen": ")",
    "percent": "%", "textdegree": "^\\circ ", "prime": "'",
}  # fmt: skip
DROPPED = vocabulary(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle"
    " scriptstyle scriptscriptstyle limits nolimits strut mathstrut hfill underline bf rm it sf tt sc sl cal mit"
    " em bm pmb mathrm mathbf mathit mathsf mathtt mathnormal boldmath unboldmath boldsymbol bfseries rmfamily"
    " itshape mathcal mathscr mathopen mathclose mathord mathop mathbin mathrel mathinner tiny scriptsize"
    " footnotesize small normalsize large Large LARGE huge Huge normalfont vec overrightarrow noindent centering"
    " nonumber notag ensuremath relax"
)
"""Commands that change the look of their argument and not its meaning."""
FUNCTIONS = vocabulary(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp sqrt gcd lcm max min cis sgn"
)
FUNCTION_NAMES = {name: name for name in FUNCTIONS} | {
    "arctg": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc", "sign": "sgn", "Re": "Re", "Im": "Im",
    "GCD": "gcd", "LCM": "lcm", "Max": "max", "Min": "min", "asin": "arcsin", "acos": "arccos", "atan": "arctan",
    "arcsinh": "arcsinh", "arsinh": "arcsinh", "asinh": "arcsinh", "arccosh": "arccosh", "arccot": "arccot",
    "arcsec": "arcsec", "coth": "coth", "pi": "pi", "det": "det", "lim": "lim",
}  # fmt: skip
NUMBER_SETS = {"R": "reals", "Z": "integers", "N": "naturals", "Q": "rationals", "C": "complexes"}
COMMAND = re.compile(r"\\([A-Za-z]+) ?")
# "\left." draws nothing, and its point would become a decimal point.
NULL_DELIMITER = re.compile(r"\\(?:left|right|middle|[bB]igg?[lr]?) ?\.")
TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|sc|md)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|operatorname\*?|boldsymbol"
    r"|emph|bm) ?\{([^{}]*)\}"
)
TEXT_GROUP = re.compile(r"\\text\{([^{}]*)\}")
"""Words inside a formula as ``normalize`` leaves them: ``\\mbox`` and ``\\textrm`` are rewritten to this form."""
# "\mathrm{cm^2}": the power moves behind the brace, where units.py reads it.
BRACED_POWER = re.compile(r"(\\(?:text|math)[a-z]* ?\{[^{}]*[A-Za-z]) ?\^ ?\{ ?(-?[0-9]) ?\}")
NUMBER_SET = re.compile(r"(?:\\(?:mathbb|mathbf|Bbb) ?(?:\{([RZNQC])\}|([RZNQC]))|\\(R)(?![A-Za-z])) ?")
COLOR = re.compile(r"\\(?:(?:text)?color|f?colorbox) ?\{[A-Za-z!0-9]{1,20}\}(?: ?\{[A-Za-z]{1,20}\}(?= ?\{))?")
SUPERSCRIPT = re.compile(r"\\textsuperscript ?(?=\{)")
SUBSCRIPT = re.compile(r"\\textsubscript ?(?=\{)")
# "{}" in front, left over from a removed command; before "_" or "^" it begins the count "{}^5C_2".
EMPTY_GROUPS = re.compile(r"^(?:\{ ?\} ?)+(?=[^_^])")
STYLED_LETTER = re.compile(r"\\(?:boldsymbol|bm|math(?:bf|it|sf|tt|normal)) ?\{ ?([A-Za-z]|\\[a-z]+ ?) ?\}")
PHANTOM = re.compile(r"\\[hv]?phantom ?\{[^{}]*\}")
SPACES = re.compile(r"\\[,;: >]|~|[\t\r\n]|\\hspace\*? ?\{[^{}]*\}|\\[hm]skip ?-?[0-9.]+ ?(?:pt|em|ex|mu)")
# An odd dollar sign: money in front of a number, "5 $" behind one.
LONE_DOLLAR = re.compile(r"([-+]?) ?\$ ?(?=[0-9.])")
TRAILING_DOLLAR = re.compile(r"(?<=[0-9]) ?\$$")
WRAPPERS = ("**", "__", "```", "``", "`", '"', "''", "'", "*", "_")
"""Marks of emphasis, code and quotation that may stand around a whole answer; longer ones first."""
HEADING = re.compile(r"(?:\\?#)+ ?(?=[^#\s])")
ANGLE_MARK = re.compile(
    r"(?<=[0-9}]) ?\^ ?(?:\{ ?(?:\\text\{ ?[oO] ?\}|[oO]) ?\}|\\text\{ ?[oO] ?\}|[oO](?![A-Za-z]))"
    r"|\^ ?\{ ?\^?\\circ ?\}"
)
# "5^{th}" and "5th": the fifth term is asked for by its number.
ORDINAL = re.compile(
    r"(?<=[0-9])(?: ?\^ ?\{ ?(?:\\text\{ ?(?:st|nd|rd|th) ?\}|(?:st|nd|rd|th)) ?\}"
    r"| ?\^? ?\\text\{ ?(?:st|nd|rd|th) ?\}|(?:st|nd|rd|th)(?![A-Za-z]))"
)
INFINITY = re.compile(r"(?<![A-Za-z\\{])(?:inf|infty|infinity|Infinity|oo)(?![A-Za-z])")
SPELLED_ROOT = re.compile(r"(?<![A-Za-z\\])sqrt ?([0-9]+(?:\.[0-9]+)?)")
# The spellings of binomials and permutations: {}_5C_2, _5C_2, {}^{5}C_{2}, and 5C2 as the whole answer.
DIGITS = r"(?:\{ ?([0-9]{1,4}|[a-z]) ?\}|([0-9]{1,4}|[a-z]))"
COUNT = re.compile(
    rf"(?:\{{ ?\}} ?|(?<![A-Za-z0-9)}}\]]))[_^] ?{DIGITS} ?(?:\{{ ?\}} ?)?(?:\\text\{{ ?([CPA]) ?\}}|([CPA]))"
    rf" ?(?:_ ?{DIGITS}|\{{ ?_ ?{DIGITS} ?\}})"
)
BRACED_COUNT = re.compile(r"\{ ?([_^] ?\{? ?[0-9]{1,4} ?\}?) ?\}(?= ?[CPA] ?[_{])")
BARE_COUNT = re.compile(r"([0-9]{1,4}) ?([CP]) ?([0-9]{1,4})")
CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
TEXT_END = re.compile(r"(\\text\{[^{}]*?)[.,;: ]+\}$")
LETTER_SET = re.compile(r"\\mathbb ?(?:\{([A-Z])\}|([A-Z]))")
ROW_SPACE = re.compile(r"\\cr ? ?\[ ?-?[0-9.]+ ?(?:pt|em|ex|mm|cm|in)\]")
TRAILING = ".,;: "
# A point behind a backslash is part of a command; "\," is a thin space that SPACES removes.
END = re.compile(r"(?<!\\)[.,;:\s]+$")
UNITS_TOO = vocabulary("min sec")
"""Names of functions that are units behind a numeral: minutes and seconds."""


# The trajectories of a group share their gold answer, and often an answer: half of what comes came a moment ago.
@lru_cache(maxsize=1024)
def normalize(text: str) -> str:
    """Return ``text`` in one spelling: ``\\dfrac12`` becomes ``\\frac 12``, ``\\left[`` becomes ``[``, ``**`` ``^``.

    In the result commands end in exactly one blank, row breaks are ``\\cr ``, currency signs are ``\\dollar `` etc.
    """
    # The order matters: each step relies on the ones before it.
    # First Unicode and the row break "\\", which the removal of "\[" and "\(" would otherwise take apart.
    text = unwrapped(END.sub("", to_tex(text).replace("...", "\\ldots "))).replace("\\\\", "\\cr ")
    text = _without_delimiters(text).replace("\\!", "").replace("{,}", ",").replace("{:}", ":")
    text = NULL_DELIMITER.sub("", text.replace("\\%", "%").replace("\\#", "#"))
    text = NUMBER_SET.sub(lambda m: f"\\{NUMBER_SETS[m.group(1) or m.group(2) or m.group(3)]} ", text)
    text = ROW_SPACE.sub(r"\\cr ", LETTER_SET.sub(r" \1\2", text))
    # Styled single letters before TEXT, which would make a word of \mathbf{x}.
    text = STYLED_LETTER.sub(r" \1", SUBSCRIPT.sub("_", SUPERSCRIPT.sub("^", text)))
    text = BRACED_POWER.sub(r"\1^\2", SPACES.sub(" ", PHANTOM.sub(" ", COLOR.sub("", text))))
    text = COMMAND.sub(_command, SPELLED_ROOT.sub(r"\\sqrt{\1}", TEXT.sub(_text, text)))
    # From here every command is written as "\name ".
    text = ORDINAL.sub("", ANGLE_MARK.sub("^\\\\circ ", text)).replace("^ \\circ", "^\\circ")
    for old, new in (("**", "^"), ("<=", "\\leq "), (">=", "\\geq "), ("!=", "\\neq "), ("==", "=")):
        text = text.replace(old, new)
    text = re.sub(r"(?<=[0-9]) ?x ?(?=10 ?\^)", "*", INFINITY.sub("\\\\infty ", text))
    text = EMPTY_GROUPS.sub("", text.strip()).lstrip("=: ").rstrip(TRAILING)
    text = TEXT_END.sub(r"\1}", text)
    if "C" in text or "P" in text or "A" in text:  # spares most answers three patterns
        text = COUNT.sub(_count, BRACED_COUNT.sub(r"\1", text))
        text = _count(bare) if (bare := BARE_COUNT.fullmatch(text)) else text
    return unwrapped(text)


def unwrapped(text: str) -> str:
    """Return ``text`` without emphasis, code, quotation or heading marks around the whole of it."""
    text = text.strip()
    heading = HEADING.match(text)
    if heading is not None:
        text = text[heading.end() :]
    for mark in WRAPPERS:
        inside = text[len(mark) : -len(mark)]
        # The mark inside too ("*a* and *b*"): it does not stand around the whole text.
        if inside and text.startswith(mark) and text.endswith(mark) and mark not in inside:
            return unwrapped(inside)
    return text


def key(normal: str) -> str:
    """Return normalised text without meaningless blanks; texts with equal keys are the same answer.

    A blank between two digits stays, since ``6 5`` is not 65.
    """
    return re.sub(r"(?<![0-9 ]) +| +(?![0-9 ])", "", normal)


def _without_delimiters(text: str) -> str:
    """Remove math delimiters; a dollar sign without a partner, before or behind a number, becomes a currency."""
    text = text.replace("\\$", "\\dollar ")
    for delimiter in ("\\(", "\\)", "\\[", "\\]"):
        text = text.replace(delimiter, " ")
    if text.count("$") % 2:
        text = LONE_DOLLAR.sub(r"\1\\dollar ", text, count=1)
        text = TRAILING_DOLLAR.sub("\\\\dollar ", text) if text.count("$") % 2 else text
    return text.replace("$", " ")


def _text(match: re.Match[str]) -> str:
    """Rewrite ``\\text{...}``: a function's name, the constants ``e`` and ``i`` and numerals leave the group."""
    content = match.group(1)
    bare = content.strip()
    if bare in UNITS_TOO and match.string[: match.start()].rstrip()[-1:].isdigit():
        return f"\\text{{{bare}}}"
    if bare in FUNCTION_NAMES:
        return f"\\{FUNCTION_NAMES[bare]} "
    if re.fullmatch(r"[0-9.]+|[ei%]|\^?\\[a-z]+(?: ?[CF])?", bare):
        return bare if content == bare and bare.isalnum() else f" {bare} "
    return bare if CJK.fullmatch(bare) else f"\\text{{{bare}}}"


def _count(match: re.Match[str]) -> str:
    """Rewrite ``_5C_2``, ``{}^5C_2`` and ``5C2`` as ``\\binom {5}{2}``."""
    top, letter, bottom = filter(None, match.groups())
    return f"\\{'binom' if letter == 'C' else 'permutations'} {{{top}}}{{{bottom}}}"


def _command(match: re.Match[str]) -> str:
    name = match.group(1)
    if name in DROPPED:
        return ""
    if name in SYMBOLS:
        return SYMBOLS[name]
    name = SYNONYMS.get(name, name)
    if name.startswith("text"):  # \textrm and its like; without a group behind it, it only changes the font
        return "\\text" if match.string.startswith("{", match.end()) else ""
    return f"\\{name} "
