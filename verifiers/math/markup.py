r"""Markup that says how a text looks, taken off first: HTML, emoji, rules, end tokens, ``align``.

What is left says the same in markdown and LaTeX.
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
RULE = re.compile(
    r"^[ \t]{0,8}(?:(?:-[ ]{0,2}){3,80}|(?:[*][ ]{0,2}){3,80}|(?:_[ ]{0,2}){3,80}|={3,80})$", re.MULTILINE
)
ALIGNED = re.compile(
    r"\\begin\{(?P<name>(?P<inner>aligned|gathered|split)|align\*?|alignat\*?|gather\*?|eqnarray\*?|equation\*?|multline\*?|displaymath)\}"
    r"(?P<body>(?:[^\\]|\\(?!begin|end\{))*)\\end\{(?P=name)\}"
)
ROW = re.compile(r"\\\\(?:\[[^\[\]\n]{1,12}\])?")
EQUATION = re.compile(r"\s*(?P<name>[A-Za-z](?:_\w|_\{\w{1,6}\})?)\s*=(?P<value>[^=]*)")


def without_markup(text: str) -> str:
    """The text in plain markdown and LaTeX; linear in its length."""
    text = END_TOKEN.sub("\n", text)
    if CLOSED.search(text):
        text = RAISED.sub(lambda match: f"{'^_'[match['tag'].lower() == 'sub']}{{{match['content']}}}", text)
        text = TAG.sub(_gap, text)
    text = RULE.sub("", EMOJI.sub(" ", text))
    return ALIGNED.sub(_of_rows, text) if "\\end{" in text else text


def _gap(match: re.Match[str]) -> str:
    name = match.group().strip("</> ").lower()
    return "\n" if name.startswith(("br", "p", "hr", "div", "li", "ul", "ol", "h1", "h2", "h3", "h4")) else ""


def _of_rows(match: re.Match[str]) -> str:
    """What rows of equations come to: a solution by several names, else the last equation of a derivation."""
    body = match["body"]
    if "\\boxed" in body or "\\fbox" in body:
        return match.group()
    equations: list[str] = []
    for row in ROW.split(body):
        row = " ".join(row.replace("\\&", "\x00").replace("&", " ").replace("\x00", "\\&").split())
        if equations and re.match(r"=|\\(?:approx|equiv|le|ge|to|implies)\b|\+|-", row):
            equations[-1] += " " + row
        elif row:
            equations.append(row)
    solved = [EQUATION.fullmatch(equation) for equation in equations]
    names = [item["name"] for item in solved if item is not None]
    values = " ".join(item["value"] for item in solved if item is not None)
    together = len(names) == len(equations) == len(set(names)) and not any(
        re.search(rf"(?<![A-Za-z\\]){re.escape(name)}", values) for name in names
    )
    said = ", ".join(equations) if together else (equations or [""])[-1].rstrip(" .,")
    return said if match["inner"] else f"$$ {said} $$"
