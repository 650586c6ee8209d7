"""What we promise is there: documented commands and keys exist, each key is read, each RPC has a caller and a test."""

import ast
import functools
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from rlserve.cli.main import COMMANDS, build_parser
from rlserve.config.base import Section
from rlserve.config.load import merge, parse_override
from rlserve.config.run import RunConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in ROOT.rglob("*.md") if not {".venv", "node_modules"} & set(p.parts))
CODE = sorted(p for p in ROOT.rglob("*.py") if not {".venv", "v1", "build"} & set(p.parts) and "tests" not in p.parts)
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
SERVICES = (
    "environment_service",
    "hub_service",
    "join_service",
    "policy_stream_service",
    "rollout_service",
    "rollout_stream_service",
    "teacher_service",
    "verifier_service",
)


def documented_commands() -> Iterator[Any]:
    """Every line of a code block that calls ``rlserve``."""
    for page in PAGES:
        inside = False
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            inside ^= line.lstrip().startswith("```")
            found = re.match(r"\s*(?:[\w-]+)?\$?\s*rlserve (.*)$", line)
            if inside and found:
                yield pytest.param(found[1], id=f"{page.relative_to(ROOT)}:{number}")


def words_of(command: str) -> list[str]:
    """As the shell gives them to the program, without what comments and pipes say."""
    return shlex.split(re.split(r"\s[|>]\s", command)[0], comments=True)


@pytest.mark.parametrize("command", list(documented_commands()))
def test_a_documented_command_is_one(command: str) -> None:
    words = words_of(command)
    parsed = build_parser(words[0]).parse_args(words)
    for override in getattr(parsed, "overrides", None) or []:
        assert known_key(override.partition("=")[0]), override
    for config in re.findall(r"configs/\S+\.toml", " ".join(words)):
        assert (ROOT / config).exists(), config


def test_every_command_is_documented_and_run_by_a_test() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for command in COMMANDS:
        assert f"rlserve {command.name}" in pages, f"{command.name} is in no page"
        assert re.search(rf"""["']{command.name}["']""", tests), f"{command.name} is in no test"


def test_every_extra_that_is_named_exists() -> None:
    for path in (*PAGES, *CODE, ROOT / "pyproject.toml"):
        for extra in re.findall(r"rlserve\[([\w,-]+)\]", path.read_text(encoding="utf-8")):
            assert set(extra.split(",")) <= EXTRAS, f"{path.name}: {extra}"


def known_key(key: str) -> bool:
    """Whether a run configuration has ``key``, as far as our own sections say."""
    parts, kinds = key.split("."), [RunConfig]
    for part in parts:
        if part.isdigit():
            continue
        if not kinds:
            return True  # inside of a plug-in's options
        fields = [kind.model_fields[part] for kind in kinds if part in kind.model_fields]
        if not fields:
            return False
        kinds = [section for field in fields for section in sections_in(field.annotation)]
    return True


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in sections_in(argument)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_documented_key_exists(page: Path) -> None:
    for key in re.findall(r"--set ([\w.]+)=", page.read_text(encoding="utf-8")):
        assert known_key(key), key
    sections = set(RunConfig.model_fields)
    for key in re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)`", page.read_text(encoding="utf-8")):
        if key.split(".")[0] in sections and not key.endswith((".toml", ".jsonl", ".json", ".py", ".md", ".html")):
            assert known_key(key), key


@functools.cache
def attributes() -> Mapping[str, set[str]]:
    """Where each attribute is read: file by file, outside of its own section's validators."""
    found: dict[str, set[str]] = {}
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.setdefault(node.attr, set()).add(str(path.relative_to(ROOT)))
    return found


def all_sections(kind: type[BaseModel] = Section) -> Iterator[type[BaseModel]]:
    importlib.import_module("rlserve.config.run")
    for section in kind.__subclasses__():
        if section.__module__.startswith("rlserve."):
            yield section
            yield from all_sections(section)


@pytest.mark.parametrize("section", sorted(set(all_sections()), key=lambda s: s.__name__), ids=lambda s: s.__name__)
def test_every_key_is_read_by_what_runs(section: type[BaseModel]) -> None:
    """By an actor, an algorithm, a command or a property of the configuration: ``learner.ess_warn`` was by none."""
    declared = str(Path(importlib.import_module(section.__module__).__file__ or "").relative_to(ROOT))
    for name in section.model_fields:
        readers = attributes().get(name, set()) - ({declared} if not _has_logic(section, name) else set())
        assert readers or name == "type", f"{section.__name__}.{name} is read nowhere"


def _has_logic(section: type[BaseModel], name: str) -> bool:
    """Whether a property of the configuration that others read uses the key."""
    source = Path(importlib.import_module(section.__module__).__file__ or "").read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any(
            isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list
        ):
            reads = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            if name in reads and attributes().get(node.name):
                return True
    return False


def methods() -> Iterator[Any]:
    for name in SERVICES:
        pb = importlib.import_module(f"rlserve.v1.{name}_pb2")
        for service in pb.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield pytest.param(service.name, method.name, id=f"{service.name}.{method.name}")


@pytest.mark.parametrize(("service", "method"), list(methods()))
def test_every_rpc_has_a_caller_here(service: str, method: str) -> None:
    """In Python or in the TypeScript example: a method without a caller is one that never ran."""
    callers = [path for path in CODE if f"{service}Stub" in path.read_text(encoding="utf-8")]
    assert any(re.search(rf"\.{method}\b(?!\s*=)", path.read_text(encoding="utf-8")) for path in callers), (
        f"{service}.{method} has no caller"
    )


def test_the_walk_over_keys_tells_known_from_unknown() -> None:
    """The walk itself knows what is there and what is not."""
    assert known_key("learner.ess_warn") and known_key("environments.0.options.path")
    assert not known_key("learner.learning_rate") and not known_key("lerner.lr")
    assert merge({}, parse_override("learner.lr=1e-5")) == {"learner": {"lr": 1e-5}}
