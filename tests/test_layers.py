"""Dependencies point one way: a module imports only from its own layer or a lower one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rlserve"
LAYERS = (
    ("v1", "errors", "nearest", "cpu_kernels", "gather", "idle_threads", "importing", "processor_time", "text_files"),
    ("records", "config", "plugins"),
    ("algorithms", "sandbox"),
    ("batching", "policy", "weight_sync", "store", "rpc", "observability"),
    ("engines",),
    ("pretrain",),
    ("actors",),
    ("launch",),
    ("bench",),
    ("cli",),
)  # lowest first
PLUGIN_MAY_IMPORT = {"errors", "records", "plugins", "sandbox", "text_files"}
ENVIRONMENT_MAY_IMPORT = PLUGIN_MAY_IMPORT | {"verifiers"}  # an environment knows the verifier of its tasks
PLUGINS = ("environments", "verifiers")
# What a host of one role does not install; only these rooms may import it at the top of a module.
LIGHT = ("records", "config", "errors", "text_files", "plugins", "rpc", "store", "verifiers", "environments", "cli")
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
