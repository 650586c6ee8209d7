"""References to objects in the user's files, such as the function ``"my_reward.py:digits"``.

The part before the colon is a Python file, or the name of an installed module (``"my_package.rewards:digits"``).
"""

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rlserve.errors import PluginFailed, UnknownName
from rlserve.nearest import nearest

EXAMPLE = "my_file.py:name"
_FORM = re.compile(r"(?P<place>[^:\n]+):(?P<name>[A-Za-z_]\w*)")


def is_reference(text: str) -> bool:
    """Whether ``text`` refers to an object in a file or a module, unlike the name of a registered plug-in."""
    return _FORM.fullmatch(text) is not None


def name_in(reference: str) -> str:
    """The object's name: ``"digits"`` of ``"my_reward.py:digits"``."""
    return reference.rpartition(":")[2]


def file_of(reference: str) -> Path | None:
    """The Python file of a reference; None for a module."""
    place = reference.rpartition(":")[0]
    return Path(place) if place.endswith(".py") else None


def anchored(value: Any, directory: Path) -> Any:
    """``value`` with every relative file of a reference in it made absolute; ``options`` are left alone."""
    if isinstance(value, str):
        # A file alone is no reference: `path = "tasks.jsonl"` keeps the meaning that its plug-in gives it.
        is_relative = is_reference(value) and (file := file_of(value)) is not None and not file.is_absolute()
        return str((directory / value).absolute()) if is_relative else value
    if isinstance(value, Mapping):
        # The values of a plug-in's options are its own affair.
        return {key: inner if key == "options" else anchored(inner, directory) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [anchored(inner, directory) for inner in value]
    return value


def load(reference: str) -> Any:
    """The object. Raises UnknownName if file, module or name is missing, PluginFailed if the import fails."""
    name = name_in(reference)
    module = _module(reference)
    try:
        return getattr(module, name)
    except AttributeError:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = nearest(name, known)
        hint = f"; did you mean {near!r}?" if near else ""
        place = reference.rpartition(":")[0]
        raise UnknownName(f"{place!r} has no {name!r}{hint} (it has {', '.join(known) or 'nothing'})") from None


def _module(reference: str) -> ModuleType:
    file = file_of(reference)
    try:
        return importlib.import_module(reference.rpartition(":")[0]) if file is None else _run_file(file)
    except UnknownName:
        raise
    # SystemExit too: a script without `if __name__ == "__main__"` may end by it.
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and file is None and reference.startswith(error.name or " "):
            raise UnknownName(f"there is no module {error.name!r}; give {EXAMPLE}") from None
        raise PluginFailed(f"{str(file or reference)!r} cannot be imported: {told(error, file)}") from error


def _run_file(file: Path) -> ModuleType:
    """The file as a module, run once in a process."""
    path = file.absolute()
    if not path.is_file():
        near = nearest(path.name, [other.name for other in path.parent.glob("*.py")])
        hint = f"; did you mean {near!r}?" if near else ""
        raise UnknownName(f"there is no file {str(path)!r}{hint}")
    if (module := _in_package(path)) is not None:
        return module
    # Not the bare stem: `code.py` or `random.py` of a user must not take the place of the standard library's.
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    # Files beside it can be imported; at the end, so that none of them takes the place of an installed module.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _in_package(path: Path) -> ModuleType | None:
    """The file as a module of the package around it, so that its relative imports work; None without a package."""
    top, parts = path.parent, [path.stem]
    while (top / "__init__.py").exists():
        parts.insert(0, top.name)
        top = top.parent
    if len(parts) == 1:
        return None
    if str(top) not in sys.path:
        sys.path.append(str(top))
    module = importlib.import_module(".".join(parts))
    # Another package of that name may come first on the path.
    return module if Path(module.__file__ or "").absolute() == path else None


def told(error: BaseException, *files: Path | None) -> str:
    """The exception with the last line of one of the files in its traceback: ``"KeyError: 'gold' (my.py:12)"``."""
    try:
        text = " ".join(str(error).split())[:400]
    except Exception:
        text = "(its __str__ raises)"
    shown = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError):  # its text names file and line
        return shown
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if any(f is not None and frame.filename == str(f.absolute()) for f in files)]
    where = (own or frames)[-1:]
    return shown + "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in where)
