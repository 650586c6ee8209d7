"""Counts the tree and the walks of docs/architecture.md: ``python docs/counts.py [ROOT]``.

Everything but tests and generated code: sizes of files and functions, comments, docstrings, constants that carry no
reason, folders, import circles, places that an addition touches; and for each walk the files that a group or a weight
enters, hop by hop. A hop that names a function that is not there is an error: the page cannot lie about the code.
"""

import ast
import io
import itertools
import re
import statistics
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOPS = ("rlserve", "verifiers", "environments", "pretrain")
LONG_FUNCTION = 60
SHORT_FILE = 60
NAMES_ONE = {
    "algorithm": (r"\bcispo\b|\bCispo\w*", "rlserve/algorithms/cispo.py"),
    "weight carrier": (r"carriers\.shared_file\b|\bSHARED_FILE\b", "rlserve/weight_sync/carriers/shared_file.py"),
    "engine": (r"engines\.vllm\.engine\b", "rlserve/engines/vllm/"),
    "launcher": (r"launch\.local\b", "rlserve/launch/local.py"),
    "store": (r"store\.sqlite\w*\b", "rlserve/store/sqlite"),
    "trained-on trajectory field": (r"\bpreference_role\b", "proto/"),
}
"""By kind what a search for one example finds, and where the example itself lies: what adding another touches."""
LEFT_OUT = ("rlserve/bench/", "docs/architecture.md")
"""Measures and tells of examples; adding one asks for no change there."""


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file, read once."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method, nested ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    @property
    def names(self) -> set[str]:
        """Functions, classes and module-level names."""
        defined = {node.name for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}
        defined |= {node.name for node in self.functions}
        for node in self.tree.body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            defined |= {target.id for target in targets if isinstance(target, ast.Name)}
        return defined


OBSERVERS = "observe"
"""Stage of the files that count or measure what passes, and hand nothing on."""


def sources(root: Path) -> list[Source]:
    """The tree's Python files but for tests and generated ones."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, check=True, capture_output=True, text=True).stdout
    paths = [Path(line) for line in listed.split() if line.startswith(TOPS) and "/v1/" not in line]
    return [Source(path, text, ast.parse(text)) for path in paths if (text := (root / path).read_text()) or True]


def percentile(values: list[int], share: float) -> int:
    """The value below which ``share`` of all lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def num_comments(text: str) -> int:
    """Comments, not counting those that only speak to a tool."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(t.type == tokenize.COMMENT and not re.match(r"# (?:noqa|type:|fmt:)", t.string) for t in tokens)


def docstring_lines(tree: ast.Module) -> int:
    """Lines inside docstrings of modules, classes, functions and of what stands under constants."""
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return sum((string.end_lineno or string.lineno) - string.lineno + 1 for string in strings)


def bare_constants(source: Source) -> Iterator[str]:
    """Numeric module constants with neither a docstring nor a comment at or above their line."""
    lines = source.text.splitlines()
    body = source.tree.body
    for node, after in zip(body, [*body, None][1:], strict=True):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        numbers = [n for n in ast.walk(node.value) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
        plain = all(
            isinstance(n, ast.Constant | ast.BinOp | ast.operator | ast.UnaryOp | ast.unaryop)
            for n in ast.walk(node.value)
        )
        if not numbers or not plain:
            continue
        explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        above = lines[node.lineno - 2].lstrip().startswith("#") if node.lineno > 1 else False
        at = "#" in lines[(node.end_lineno or node.lineno) - 1]
        if not explained and not above and not at:
            yield f"{source.path}:{node.lineno} {node.targets[0].id}"


def imports(source: Source) -> set[str]:
    """Dotted rlserve modules that a file imports anywhere; ``from package import name`` gives both readings."""
    found: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rlserve"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("rlserve")}
    return found


def module_of(path: Path) -> str:
    """A file's dotted name; three folders are linked into the package."""
    parts = path.with_suffix("").parts
    dotted = ".".join(parts if parts[0] == "rlserve" else ("rlserve", *parts))
    return dotted.removesuffix(".__init__")


def knots(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for there in graph.get(todo.pop(), ()):
                if there not in seen:
                    seen.add(there)
                    todo.append(there)
        return seen

    reached = {node: reach(node) for node in graph}
    found = {
        tuple(sorted({n for n in reached[node] if node in reached.get(n, ())} | {node}))
        for node in graph
        if node in reached[node]
    }
    return [list(knot) for knot in sorted(found) if len(knot) > 1]


def print_sizes(tree: list[Source]) -> None:
    """Section of sizes: one line a count."""
    lines = [source.text.count("\n") for source in tree if source.text]
    lengths = [(f.end_lineno or f.lineno) - f.lineno + 1 for source in tree for f in source.functions]
    comments, total = sum(num_comments(source.text) for source in tree), sum(lines)
    folders = Counter(str(source.path.parent) for source in tree)
    show("files", f"{len(lines)}, {total} lines; {spread(lines)}")
    show(f"files under {SHORT_FILE} lines", f"{sum(n < SHORT_FILE for n in lines) / len(lines):.0%}")
    show(
        "functions",
        f"{len(lengths)}; {spread(lengths)}; {sum(n > LONG_FUNCTION for n in lengths)} over {LONG_FUNCTION}",
    )
    show("comments per 100 lines", f"{100 * comments / total:.1f}")
    show("docstring lines", f"{sum(docstring_lines(source.tree) for source in tree) / total:.1%}")
    show("constants without reason", str(sum(1 for source in tree for _ in bare_constants(source))))
    show("fullest folders", ", ".join(f"{name} {count}" for name, count in folders.most_common(6)))
    show("empty __init__.py", str(sum(s.path.name == "__init__.py" and not s.text.strip() for s in tree)))


def spread(values: list[int]) -> str:
    """Median, 90th percentile and maximum."""
    return f"median {statistics.median(values):.0f}, p90 {percentile(values, 0.9)}, max {max(values)}"


def show(what: str, value: str) -> None:
    """One count."""
    print(f"{what:26}{value}")


def print_directions(tree: list[Source]) -> None:
    """Import circles of files, and folders inside actors/ that import each other."""
    modules = {module_of(source.path) for source in tree}
    files = {module_of(s.path): {m for m in imports(s) & modules if m != module_of(s.path)} for s in tree}
    packages = {module_of(s.path) for s in tree if s.path.name == "__init__.py"}
    circles = knots({name: {m for m in there if m not in packages} for name, there in files.items()})
    show("import circles of files", f"{len(circles)} {circles or ''}")

    def room(name: str) -> str:
        parts = name.split(".")
        return ".".join(parts[1:3]) if len(parts) > 2 else ""

    rooms: dict[str, set[str]] = {}
    for name, there in files.items():
        if name.startswith("rlserve.actors."):
            rooms.setdefault(room(name), set()).update(
                room(m) for m in there if m.startswith("rlserve.actors.") and room(m) != room(name)
            )
    show("knots inside actors/", f"{len(knots(rooms))} {knots(rooms) or ''}")


def print_places(root: Path, tree: list[Source]) -> None:
    """How many files name the one example of each kind."""
    others = [
        root / "pyproject.toml",
        *sorted((root / "docs").glob("*.md")),
        *sorted((root / "proto").rglob("*.proto")),
    ]
    texts = {str(s.path): s.text for s in tree} | {str(path.relative_to(root)): path.read_text() for path in others}
    for kind, (pattern, own) in NAMES_ONE.items():
        found = sorted(name for name, text in texts.items() if re.search(pattern, text))
        others = [name for name in found if not name.startswith((own, *LEFT_OUT))]
        show(f"one {kind}", f"{1 + len(others)}: {own}, {', '.join(others)}")


def walks(page: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walks of the page: name, hops on the way, hops of what only observes.

    Fenced blocks ``walk NAME``; ``->`` or ``>>`` parts hops, the word before a colon is the stage.
    """
    for name, block in re.findall(r"^```walk (.+?)\n(.*?)^```", page, re.M | re.S):
        way, observers = [], []
        for line in block.splitlines():
            stage, _, hops = line.partition(":")
            into = observers if stage.strip() == OBSERVERS else way
            into += [hop.strip() for hop in re.split(r"->|>>", hops) if hop.strip()]
        yield name, way, observers


def resolve(hops: list[str], tree: list[Source]) -> list[str]:
    """The file of each hop, ``folder/file.function``. Raises SystemExit for one that is not there."""
    files = []
    for hop in hops:
        place, _, name = hop.rpartition(".")
        fits = [s for s in tree if f"/{s.path.with_suffix('')}".endswith("/" + place)]
        if len(fits) != 1:
            raise SystemExit(f"{hop}: {len(fits)} files are called {place}: {', '.join(str(s.path) for s in fits)}")
        if name not in fits[0].names:
            raise SystemExit(f"{hop}: {fits[0].path} defines no {name}")
        files.append(str(fits[0].path))
    return files


def print_walks(page: str, tree: list[Source]) -> None:
    """Files, hops, returns and folders of each walk."""
    for name, way, observers in walks(page):
        files, beside = resolve(way, tree), set(resolve(observers, tree))
        moves = [(a, b) for a, b in itertools.pairwise(files) if a != b]
        changes = sum(Path(a).parent != Path(b).parent for a, b in moves)
        show(f"walk of {name}", f"{len(set(files))} files, {len(moves)} file hops, {changes} folder changes")
        if beside - set(files):
            show("  and beside it", f"{len(beside - set(files))} files that only observe")


def main() -> None:
    """Print all counts of the tree at the given root."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])
    tree = sources(root)
    print_sizes(tree)
    print_directions(tree)
    print_places(root, tree)
    page = root / "docs" / "architecture.md"
    if page.exists():
        print_walks(page.read_text(), tree)


if __name__ == "__main__":
    main()
