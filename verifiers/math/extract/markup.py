r"""Removes markup that only changes how a text looks: HTML, emoji, rules, end tokens, ``align``.

The result has the same meaning in plain markdown and LaTeX.
"""

import re

from rlserve.verifiers.reasoning import END_TOKEN

TAG = re.compile(
    r"</?(?:b|strong|em|i|u|p|br|hr|div|span|h[1-6]|li|ul|ol|center|code|pre|font|mark|small|big)"
    r"(?: [^<>\n]{0,100})?\s?/?>",
    re.IGNORECASE,
)
CLOSED = re.compile(r"</[a-z0-9]{1,6}\s?>|<br\s?/?>", re.IGNORECASE)
"""Without one of these ``a<b>c`` is a relation."""
RAISED = re.compile(r"<(?P<tag>su[pb])>(?P<content>[^<>\n]{1,40})</(?P=tag)>", re.IGNORECASE)
EMOJI = re.compile(
    r"[\u2600-\u265f\u2668-\u27bf\u2b00-\u2bff\ufe0e\ufe0f\u200d\U0001f000-\U0001faff\u25a0-\u25ab\u220e]+"
)
# A horizontal rule of markdown, or the underline of a heading.
RULE = re.compile(
    r"^[ \t]{0,8}(?:(?:-[ ]{0,2}){3,80}|(?:[*][ ]{0,2}){3,80}|(?:_[ ]{0,2}){3,80}|={3,80})$", re.MULTILINE
)
# The innermost environment: a body that opens or closes another one does not match, which keeps the search linear.
ALIGNED = re.compile(
    r"\\begin\{(?P<name>(?P<inner>aligned|gathered|split)|align\*?|alignat\*?|gather\*?|eqnarray\*?|equation\*?|multline\*?|displaymath)\}"
    r"(?P<body>(?:[^\\]|\\(?!begin|end\{))*)\\end\{(?P=name)\}"
)
ROW = re.compile(r"\\\\(?:\[[^\[\]\n]{1,12}\])?")
EQUATION = re.compile(r"\s*(?P<name>[A-Za-z](?:_\w|_\{\w{1,6}\})?)\s*=(?P<value>[^=]*)")


def without_markup(text: str) -> str:
    """Return the text in plain markdown and LaTeX, in linear time."""
    text = END_TOKEN.sub("\n", text)  # a line break, since a model may go on behind <|im_end|> with another turn
    if CLOSED.search(text):
        text = RAISED.sub(lambda match: f"{'^_'[match['tag'].lower() == 'sub']}{{{match['content']}}}", text)
        text = TAG.sub(_gap, text)
    text = RULE.sub("", EMOJI.sub(" ", text))
    return ALIGNED.sub(_of_rows, text) if "\\end{" in text else text


def _gap(match: re.Match[str]) -> str:
    name = match.group().strip("</> ").lower()
    return "\n" if name.startswith(("br", "p", "hr", "div", "li", "ul", "ol", "h1", "h2", "h3", "h4")) else ""


def _of_rows(match: re.Match[str]) -> str:
    """Return the result of rows of equations: the values of several variables, else a derivation's last equation."""
    body = match["body"]
    if "\\boxed" in body or "\\fbox" in body:
        return match.group()  # the box announces the answer: leave it to ``boxes.py``
    equations: list[str] = []
    for row in ROW.split(body):
        # "&" aligns columns, "\&" is a character: a NUL, which no row contains, keeps the second one.
        row = " ".join(row.replace("\\&", "\x00").replace("&", " ").replace("\x00", "\\&").split())
        if equations and re.match(r"=|\\(?:approx|equiv|le|ge|to|implies)\b|\+|-", row):
            equations[-1] += " " + row
        elif row:
            equations.append(row)
    solved = [EQUATION.fullmatch(equation) for equation in equations]
    names = [item["name"] for item in solved if item is not None]
    values = " ".join(item["value"] for item in solved if item is not None)
    # "x = 1, y = 2" is a solution; "x = y + 1, y = 2" is a derivation, since a value mentions another row's name.
    together = len(names) == len(equations) == len(set(names)) and not any(
        re.search(rf"(?<![A-Za-z\\]){re.escape(name)}", values) for name in names
    )
    result = ", ".join(equations) if together else (equations or [""])[-1].rstrip(" .,")
    return result if match["inner"] else f"$$ {result} $$"
