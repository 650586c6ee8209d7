"""The program in a completion that may talk around it."""

import re

FENCE = re.compile(r"^ {0,3}```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^ {0,3}```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
PYTHON_NAMES = ("python", "py", "python3")


def program_in(completion: str) -> str:
    """The last fenced block that is Python, else the last that names no language, else the whole text.

    An open fence at the end counts: the completion was cut off, and its program is judged as it stands.
    """
    blocks = FENCE.findall(completion)
    for wanted in (PYTHON_NAMES, ("",)):
        found = [body for language, body in blocks if language.lower() in wanted]
        if found:
            return str(found[-1])
    return completion


def with_prefix(program: str, prefix: str, entry_point: str) -> str:
    """The program to run, when the task's own code comes before what was written.

    A completion that defines the function gets the prefix for its imports and helpers, if the prefix is a program
    by itself; a completion that does not is taken for the rest of the prefix's last function.
    """
    if not prefix:
        return program
    name = re.escape(entry_point)
    if entry_point and re.search(rf"^(?:async +def|def|class) +{name}\b|^{name} *=", program, re.MULTILINE):
        starts_alone = re.search(r"^from +__future__ +import", program, re.MULTILINE)
        return program if starts_alone or not _is_program(prefix) else f"{prefix}\n\n{program}"
    return prefix + program


def _is_program(prefix: str) -> bool:
    try:
        compile(prefix, "prefix", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True
