"""Each package is a map of its modules, and its prose is plain: active sentences in the field's words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rlserve", "verifiers", "environments", "pretrain")
GENERATED = ROOT / "rlserve" / "v1"
PROSE = (*PACKAGES, "docs", "README.md", "configs", "tests")
LINKS = frozenset(ROOT / "rlserve" / name for name in ("verifiers", "environments", "pretrain", "configs"))
"""Links within the repository: what they lead to is looked at by its own path."""

BANNED = {
    r"(?:semi-|\b)on-line\b|\boff[- ]line\b|\bon line\b(?! [\d{])": "online, semi-online, offline",
    r"\bfor ever\b": "forever, or: until what ends it",
    r"\banew\b": "again",
    r"\b[Nn]one means\b": "empty, or 0, stands for ...",
    r"\bof ours\b": "name it: the learner's, rlserve's",
    r"\b(?:becomes|became) of\b": "name what happens to it",
    r"\bby whose hand\b": "whatever killed it",
    r"\bwho asks\b": "the caller",
    r"\b(?:has|have) not[.,;:)]": "is missing from ..., does not have ...",
    r"\bwhat is none\b|\bthat (?:is|are) none\b": "anything else, an invalid one",
    r"\b(?:is|are|was|were) told\b": "gets, is called with, raises",
    r"\bheard of\b|\bhears?\b": "receives, is notified",
    r"\bsays (?:nothing|no|of)\b": "name what it lacks or describes",
    r"\b(?:tokens|groups|samples|completions|programs|verdicts|seconds|steps|swaps|lines?|one|row|queue|spec|entry)"
    r" a (?:second|step|seed|token|group|name|line|method|prompt|sequence|task|watcher|rank|worker)\b": "per",
    r"\b[Nn]obody\b": "no actor, no caller, none",
}
"""Ways of writing that a reader stumbles over, and what to write instead."""

PENDING: tuple[str, ...] = ()
"""Where the words are still being changed; this list only shrinks."""


PENDING_MAPS: tuple[str, ...] = ()
"""Folders whose modules are about to move to others."""


def packages() -> Iterator[Path]:
    """Every folder of modules."""
    for top in PACKAGES:
        for folder in [ROOT / top, *(path for path in (ROOT / top).rglob("*") if path.is_dir())]:
            inside = GENERATED in (folder, *folder.parents) or any(link in (folder, *folder.parents) for link in LINKS)
            if not inside and "node_modules" not in folder.parts and next(folder.glob("*.py"), None) is not None:
                yield folder


@pytest.mark.parametrize("folder", [str(folder.relative_to(ROOT)) for folder in packages()])
def test_a_package_lists_its_modules(folder: str) -> None:
    path = ROOT / folder / "__init__.py"
    if not path.exists():
        pytest.skip("a folder of scripts")
    if folder in PENDING_MAPS:
        pytest.skip("its modules are about to move")
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert text, f"{folder}/__init__.py has no docstring; list its modules, one per line, and how to add one"
    modules = {file.stem for file in path.parent.glob("*.py")} - {"__init__"}
    modules |= {file.parent.name for file in path.parent.glob("*/__init__.py") if file.parent not in LINKS}
    missing = sorted(module for module in modules - {"v1"} if not re.search(rf"(?<!\w){module}(?!\w)", text))
    assert not missing, f"{folder}/__init__.py does not name {', '.join(missing)}"


def texts() -> Iterator[Path]:
    """Every file with prose."""
    for top in PROSE:
        files = [ROOT / top] if (ROOT / top).is_file() else (ROOT / top).rglob("*")
        yield from (path for path in files if path.suffix in (".py", ".md", ".toml") and is_ours(path))


def is_ours(path: Path) -> bool:
    """False for generated and installed files, for links, and for this list of what to avoid."""
    elsewhere = GENERATED in path.parents or any(link in path.parents for link in LINKS)
    return not elsewhere and "node_modules" not in path.parts and path != Path(__file__)


def test_prose_is_plain() -> None:
    found = []
    banned = {re.compile(pattern): instead for pattern, instead in BANNED.items()}
    for path in texts():
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        if name.startswith(PENDING):
            continue
        for pattern, instead in banned.items():
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{name}:{line}: {match[0]!r}; write {instead}")
    assert not found, "\n".join(found)


NAMED_FILE = re.compile(r"`{1,2}((?:[\w.-]+/)+[\w.-]+\.(?:py|md|toml|proto|tsv))`")


def test_files_that_prose_names_exist() -> None:
    """A path counts from any folder above or beside the text, as readers take it."""
    files = [path for path in texts() if path.suffix == ".md" or path.name == "__init__.py"]
    missing = []
    for path in files:
        above = [folder for folder in path.parents if folder == ROOT or ROOT in folder.parents]
        for match in NAMED_FILE.finditer(path.read_text(encoding="utf-8")):
            if not any((folder / match[1]).exists() for folder in above):
                missing.append(f"{path.relative_to(ROOT)} names {match[1]}")
    assert not missing, "\n".join(missing)
