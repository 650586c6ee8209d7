"""Every shipped configuration loads, shows its plan without starting anything, and is found; every key is explained."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rlserve.cli.main import main
from rlserve.config.editor_schema import editor_schema
from rlserve.config.load import load_run
from rlserve.config.reference import reference, tables_of
from rlserve.config.run import RunConfig
from rlserve.config.shipped import shipped

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.toml"))


def test_there_are_configurations_to_check() -> None:
    assert {"quickstart.toml", "gsm8k.toml", "gsm8k_qwen.toml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_a_shipped_configuration_loads_and_dry_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_run([path])
    # Most name files and models that are not in the repository.
    assert main(["run", str(path), "--dry-run", "--no-preflight"]) == 0
    printed = capsys.readouterr().out
    assert f'name = "{config.name}"' in printed
    assert printed.count("# rollout-") == config.rollout.workers
    assert printed.count("# learner") == config.learner.ranks


def test_a_shipped_configuration_is_run_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(shipped()) == len(CONFIGS)
    for name in ("quickstart", "gpu/gsm8k_qwen"):
        assert main(["run", name, "--dry-run", "--no-preflight"]) == 0
        assert f'name = "{Path(name).name.replace("_", "-")}"' in capsys.readouterr().out
    # A file of that name here goes first, a directory does not.
    (tmp_path / "quickstart").mkdir()
    assert load_run(["quickstart"]).name == "quickstart"
    assert main(["run", "quickstrat", "--dry-run"]) == 1
    assert "no file 'quickstrat'; shipped ones are cispo, " in capsys.readouterr().err


def test_configurations_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(listed) == set(shipped()) and all(len(title) > 20 for title in listed.values())
    assert main(["config", "show", "gpu/one_gpu"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs" / "gpu" / "one_gpu.toml").read_text()
    assert main(["config", "show", "quikstart"]) == 1
    assert "did you mean 'quickstart'?" in capsys.readouterr().err


def test_the_page_of_keys_is_that_of_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "reference"]) == 0
    assert capsys.readouterr().out == reference()
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "run: rlserve config reference > docs/configuration.md"


def test_every_key_has_a_meaning() -> None:
    """Its own docstring, or, where it stands for a table, that table's."""
    tables = tables_of(RunConfig.model_json_schema()).values()
    lacking = [
        f"{table.section['title']}.{key}"
        for table in tables
        for key, node in table.section["properties"].items()
        if len(node.get("description", "")) <= 10 and not any(word in json.dumps(node) for word in ("$ref", "const"))
    ]
    assert not lacking, "no docstring: " + ", ".join(lacking)
    assert not [table.section["title"] for table in tables if not table.section.get("description")]
    rows = [line.rsplit("|", 2)[1].strip() for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(table.section["properties"]) for table in tables) > 200
    assert min(map(len, rows)) > 8


def test_the_schema_for_editors_accepts_what_is_shipped() -> None:
    validator = jsonschema.Draft7Validator(editor_schema())
    for path in CONFIGS:
        values = tomllib.loads(path.read_text())
        assert not list(validator.iter_errors(values)), path.name
    for wrong in ({"lerner": {}}, {"learner": {"lr": -1}}, {"learner": {"learning_rate": 1}}, {"steps": "ten"}):
        assert list(validator.iter_errors(wrong)), wrong


@pytest.mark.parametrize(
    "values",
    [
        {"environment": "my_env.py:Env", "reward": "my.py:f", "algorithm": "cispo"},
        {"reward": ["my.py:f", {"function": "my.py:g", "weight": 0.5}], "algorithm": {"type": "theirs", "options": {}}},
        {"base": "quickstart.toml"},
    ],
)
def test_the_schema_for_editors_accepts_short_forms(values: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json.loads(json.dumps(editor_schema()))
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values | {"algorithm": {"type": "grpo", "clip_lowest": 1}}, schema)
