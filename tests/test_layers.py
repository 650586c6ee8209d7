"""Dependencies point one way: a module imports only from its own layer or a lower one."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rlserve"
Layers = tuple[tuple[str, ...], ...]
LAYERS: Layers = (
    (
        "v1",
        "errors",
        "nearest",
        "compile_caches",
        "cpu_kernels",
        "gather",
        "hugging_face",
        "idle_threads",
        "importing",
        "processor_time",
        "text_files",
    ),
    ("records", "config", "plugins", "references", "data"),
    ("tokens", "algorithms", "memory", "sandbox"),
    ("batching", "store", "observability", "models"),
    ("console",),
    ("rpc", "trackers"),
    ("weight_sync",),
    ("engines", "pretrain"),
    ("actors",),
    ("launch",),
    ("library",),
    ("bench",),
    ("cli",),
)  # lowest first
INSIDE: dict[str, Layers] = {
    "actors": (
        ("stop", "stop_deadline", "checkpoints"),
        ("discovery", "mirror"),
        ("process", "start_model"),
        ("hub",),
        ("verifier",),
        ("environment",),
        ("teacher",),
        ("rollout",),
        ("learner",),
    ),
    "actors/learner": (("leases",), ("ingest", "train")),  # modules beside these folders lie above them
    "actors/rollout": (("stages",), ("episodes",)),
    "cli": (("commands", "templates"), ("runs",), ("env",)),
    "verifiers/math": (("tree", "prefilter"), ("notation",), ("read", "extract"), ("compare",)),
}
"""The same inside a folder: its own folders and modules, lowest first; those left out lie above all that are named."""
MAX_FILES = 16  # more than one sees at a glance; algorithms/ is a list of algorithms, one a file
MANY_FILES = {"rlserve/algorithms"}
PLUGIN_MAY_IMPORT = {"errors", "nearest", "records", "plugins", "references", "sandbox", "text_files"}
ENVIRONMENT_MAY_IMPORT = PLUGIN_MAY_IMPORT | {"verifiers", "data"}  # an environment knows its tasks' verifier
PLUGINS = ("environments", "verifiers")
# What a host of one role does not install; only these rooms may import it at the top of a module.
LIGHT = (
    "records",
    "config",
    "memory",
    "errors",
    "text_files",
    "plugins",
    "rpc",
    "store",
    "verifiers",
    "environments",
    "cli",
)
LIGHT_FILES = ("engines/__init__.py", "engines/base.py", "engines/factory.py")  # named without the engine itself
HEAVY = {"torch", "vllm", "deepspeed", "transformers", "ray"}

MODULES = sorted(
    path
    for top in (ROOT, *(ROOT / name for name in ("verifiers", "environments", "pretrain")))
    for path in top.rglob("*.py")
    if "v1" not in path.parts
)


def room(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else ""


def layer(name: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if name in names)


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    here = room("rlserve." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
    if here == "__init__":
        return
    for name in imported(path):
        there = room(name) if name.split(".")[0] == "rlserve" else ""
        if not there or there == here or there == "__version__":
            continue
        if here in PLUGINS:
            allowed = ENVIRONMENT_MAY_IMPORT if here == "environments" else PLUGIN_MAY_IMPORT
            assert there in allowed, f"plug-in {here} imports {name}"
        else:
            assert there not in PLUGINS, f"{here} imports the plug-in {name}; use rlserve.plugins"
            assert layer(there) <= layer(here), f"{here} imports {name}, which lies above it"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_light_rooms_import_nothing_heavy_at_the_top(path: Path) -> None:
    relative = path.relative_to(ROOT)
    if relative.parts[0].removesuffix(".py") not in LIGHT and str(relative) not in LIGHT_FILES:
        return
    for node in ast.parse(path.read_text()).body:
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        assert not {name.split(".")[0] for name in names} & HEAVY, f"{path.name} imports {names}"


@pytest.mark.parametrize("folder", INSIDE)
def test_imports_inside_a_folder_point_down(folder: str) -> None:
    top, order = ROOT / folder, INSIDE[folder]
    prefix = "rlserve." + folder.replace("/", ".") + "."

    def height(name: str) -> int:
        return next((index for index, names in enumerate(order) if name in names), len(order))

    for names in order:
        for name in names:
            assert (top / name).is_dir() or (top / f"{name}.py").is_file(), f"{folder} has no {name}"
    for path in top.rglob("*.py"):
        here = path.relative_to(top).with_suffix("").parts[0]
        for name in imported(path):
            there = name.removeprefix(prefix).split(".")[0]
            if name.startswith(prefix) and there != here and height(here) < len(order):
                assert height(there) < height(here), f"{path.relative_to(ROOT)} imports {name}, not below it"


def test_a_folder_is_seen_at_a_glance() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    folders = Counter(str(Path(line).parent) for line in listed.stdout.split() if "/v1/" not in line)
    crowded = {name: count for name, count in folders.items() if count > MAX_FILES and name not in MANY_FILES}
    assert not crowded, f"folders of more than {MAX_FILES} files: group them by what they are for: {crowded}"


def test_every_step_of_the_documented_walks_exists() -> None:
    """docs/counts.py resolves each function that docs/architecture.md names, and looks for circles of imports."""
    script = ROOT.parent / "docs" / "counts.py"
    printed = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.count("walk of ") == 2
    for count in ("import circles of files", "knots inside actors/"):
        assert f"{count:26}0" in printed.stdout
