"""What a newcomer gets wrong, and what is said: the key, the value and the fix, before anything was started."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import mistaken_plugins
import pytest

from rlserve.cli.main import main
from tests.support.models.paper_model import POSITIONS, write_model

CONFIGS = Path(__file__).parents[2] / "configs"
QUICK = str(CONFIGS / "quickstart.toml")

Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Say]:
    """Runs a command; returns exit code and standard error. Whatever it said, nothing may have been started."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("PYTHONPATH", mistaken_plugins.install(site))
    runs = tmp_path / "runs"

    def run(*arguments: str, directory: bool = True) -> tuple[int, str]:
        where = ["--set", f"directory={runs}"] if directory else []
        try:
            status = main([*arguments, *where])
        except SystemExit as ended:  # argparse
            status = int(ended.code or 0)
        return status, capsys.readouterr().err

    yield run
    assert not runs.exists(), "a refused run left something behind"


def options(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


STATIC: tuple[tuple[list[str], tuple[str, ...]], ...] = (
    (["rollout.group_sise=4"], ("rollout.group_sise: unknown key", "did you mean 'group_size'?")),
    (["rolout.group_size=4"], ("rolout: unknown key", "did you mean 'rollout'?")),
    (["learner.learning_rate=1e-5"], ("learner.learning_rate: unknown key", "learner.lr")),
    (["batch_size=32"], ("batch_size: unknown key", "learner.groups_per_step")),
    (["algorithm.beta=0.1"], ("algorithm.beta: unknown key", "algorithm.kl.coefficient")),
    (["num_generations=8"], ("num_generations: unknown key", "rollout.group_size")),
    (["lr=1e-5"], ("lr: unknown key", "learner.lr")),
    (["learner.group_size=4"], ("learner.group_size: unknown key", "rollout.group_size")),
    (["learner.lr=fast"], ("learner.lr: is 'fast'", "number")),
    (["learner.lr=-1"], ("learner.lr: is -1", "greater than 0")),
    (["name='a b'"], ("name: is 'a b'",)),
    (["learner.lr"], ("--set: 'learner.lr' is not KEY=VALUE",)),
    (["environments.4.weight=2"], ("environments.4: is no element",)),
    (["rollout.group_size=1"], ("rollout.group_size: is 1",)),
    (["rollout.top_p=0.9"], ("rollout.top_p: is 0.9",)),
    (["rollout.max_new_tokens=64"], ("rollout.max_new_tokens: is 64", "model.max_length")),
    (["model.max_length=4096"], ("learner.tokens_per_micro_batch: is 2048",)),
    (["environments.0.split=test"], ("environments.0.split: is 'test'",)),
    (["model.path=x"], ("model.path: is 'x' and [pretrain] is present",)),
    (["launch.cores={ lerner = [0] }"], ("launch.cores: names 'lerner'",)),
)


@pytest.mark.parametrize(("overrides", "words"), STATIC, ids=lambda v: v[0] if isinstance(v, list) else "")
def test_a_wrong_key_or_value(overrides: list[str], words: tuple[str, ...], say: Say) -> None:
    status, said = say("run", QUICK, *options(*overrides))
    assert status == 1
    assert all(word in said for word in words), said
    assert "Traceback" not in said


def test_one_fault_is_one_line(say: Say) -> None:
    _, said = say("run", QUICK, *options("environments.0.split=test"))
    assert len(said.splitlines()) == 1


def test_every_fault_is_told_at_once(say: Say) -> None:
    faults = ("algorithm.type=grp0", "environments.0.name=arithmetik", "hub.address=nowhere")
    _, said = say("run", QUICK, *options(*faults, "trackers=[{ type = 'wand' }]"))
    assert len(said.splitlines()) == 4
    assert all(key in said for key in ("algorithm.type", "environments.0.name", "hub.address", "trackers.0.type"))


FILES: tuple[tuple[str, str], ...] = (
    ("name = ", "is not TOML: "),
    ("\xff", "is not UTF-8"),
    ("", "name: is missing; give it a value"),
)


@pytest.mark.parametrize(("text", "words"), FILES)
def test_a_broken_file(text: str, words: str, say: Say, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode("latin-1"))
    status, said = say("run", str(path), directory=False)
    assert status == 1 and words in said


def test_a_file_that_is_none(say: Say, tmp_path: Path) -> None:
    status, said = say("run", str(tmp_path / "none.toml"), directory=False)
    assert status == 1 and "no file" in said and "quickstart" in said
    status, said = say("run", str(tmp_path), directory=False)
    assert status == 1 and "is a directory" in said and "Traceback" not in said


def test_a_directory_that_cannot_be_made(say: Say, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for more in ([], ["--no-preflight"]):
        status, said = say("run", QUICK, "--set", f"directory={tmp_path / 'file' / 'runs'}", *more, directory=False)
        assert status == 1 and said.startswith("rlserve run: directory: ") and "Traceback" not in said


def test_a_key_that_cannot_be_unset(say: Say) -> None:
    status, said = say("run", QUICK, "--unset", "pretain")
    assert status == 1 and "--unset: 'pretain' is no key; did you mean 'pretrain'?" in said


@pytest.mark.parametrize("key", ["hub.address", "learner.address", "verifier.address", "rollout.address"])
def test_a_port_that_is_taken(key: str, say: Say) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said = say("run", QUICK, *options(f"{key}=127.0.0.1:{port}"))
    assert status == 1
    assert f"{key}: '127.0.0.1:{port}' cannot be bound" in said and "port 0" in said


def test_a_port_for_two(say: Say) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    status, said = say("run", QUICK, *options(f"rollout.address=127.0.0.1:{port}", "rollout.workers=2"))
    assert status == 1 and "is for more than one actor" in said


PLUG_INS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("algorithm", "algorithm.type=grp0", ("algorithm.type: 'grp0' is not registered; did you mean 'grpo'?",)),
    ("algorithm none like it", "algorithm.type=ppo", ("algorithm.type: 'ppo' is not registered", "known: ")),
    ("environment", '{ name = "gsm9k" }', ("environments.0.name: 'gsm9k'", "did you mean 'gsm8k'?")),
    ("plug-in", '{ name = "x", plugin = "gsm9k" }', ("environments.0.plugin: 'gsm9k'", "did you mean 'gsm8k'?")),
    (
        "option",
        '{ name = "asks", options = { characterss = 2 } }',
        ("environments.0.options.characterss: is not an option of 'asks'; did you mean 'characters'?",),
    ),
    ("missing option", '{ name = "dataset" }', ("environments.0.options.path: is missing",)),
    (
        "missing file",
        '{ name = "dataset", options = { path = "/nope.jsonl" } }',
        ("environments.0.options.path: '/nope.jsonl' cannot be read",),
    ),
    ("split", '{ name = "asks", split = "tain" }', ("environments.0.split: ", "did you mean 'train'?")),
    (
        "eval split",
        '{ name = "asks", eval_split = "dev" }',
        ("environments.0.eval_split: ", "known: test, train", "evaluate.problems = 0"),
    ),
    ("broken tasks", '{ name = "gives_nothing" }', ("gives no task 0 of split 'train': KeyError: 'question'", ".py:")),
    ("crash", '{ name = "dies_at_start" }', ("environments.0: its process ended (exit code 9)",)),
    (
        "verifier",
        '{ name = "asks", options = { verifier = "digts" } }',
        ("'digts', which is not installed", "'digits'?"),
    ),
    (
        "verifier that raises",
        '{ name = "asks", options = { verifier = "raises" } }',
        ("verifier 'raises' judges nothing of environments.0", "ZeroDivisionError", "mistaken_plugins.py:"),
    ),
    ("reward NaN", '{ name = "asks", options = { verifier = "returns_nan" } }', ("reward nan",)),
    ("a float", '{ name = "asks", options = { verifier = "returns_float" } }', ("returned a float", "Verdict")),
    (
        "a judge that is away",
        '{ name = "asks", options = { verifier = "waits_in_vain" } }',
        ("judges nothing", "no judge here"),
    ),
    ("verifier import", '{ name = "asks", options = { verifier = "unimportable" } }', ("cannot be imported",)),
)


@pytest.mark.parametrize(("override", "words"), [p[1:] for p in PLUG_INS], ids=[p[0] for p in PLUG_INS])
def test_a_plug_in_that_cannot_work(override: str, words: tuple[str, ...], say: Say) -> None:
    given = override if override.startswith("algorithm") else f"environments=[{override}]"
    status, said = say("run", QUICK, *options(given))
    assert status == 1
    assert all(word in said for word in words), said
    assert "Traceback" not in said


def test_a_verifier_that_waits_for_others_is_waited_for(say: Say) -> None:
    asks = 'environments=[{ name = "asks", options = { verifier = "waits" } }]'
    assert say("run", QUICK, "--dry-run", *options(asks)) == (0, "")


def test_options_of_a_verifier_that_is_not_there(say: Say) -> None:
    _, said = say("run", QUICK, *options("verifier.options.mth={ a = 1 }"))
    assert "verifier.options.mth: " in said and "did you mean 'math'?" in said


def test_options_that_a_verifier_does_not_take(say: Say) -> None:
    _, said = say("run", QUICK, *options('environments=[{ name = "asks" }]', "verifier.options.digits={ base = 2 }"))
    assert "verifier.options.digits.base: is not an option of 'digits'" in said


def test_a_verifier_that_fails_on_one_answer_is_a_warning(say: Say) -> None:
    asks = 'environments=[{ name = "asks", options = { verifier = "fears_empty" } }]'
    status, said = say("run", QUICK, "--dry-run", *options(asks))
    assert status == 0
    assert "warning: verifier 'fears_empty' gives no verdict on an empty answer" in said and "ZeroDivision" in said


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        ('{ environment = "arithmetik" }', "did you mean 'arithmetic'?"),
        ('{ environment = "asks" }', "cannot demonstrate"),
        ('{ path = "/nope.jsonl" }', "there is no file '/nope.jsonl'"),
        ('{ mixture = [{ path = "/nope.jsonl" }] }', "pretrain.stage.corpus.mixture.0.path"),
    ],
)
def test_a_corpus_that_is_none(corpus: str, words: str, say: Say) -> None:
    _, said = say("run", QUICK, "--unset", "pretrain.stage.corpus", *options(f"pretrain.stage.corpus={corpus}"))
    assert "pretrain.stage.corpus" in said and words in said


def of(model: object, *more: str) -> list[str]:
    """Arguments that start the quick start from ``model``."""
    return ["run", QUICK, "--unset", "pretrain", "--unset", "sft", *options(f"model.path={model}", *more)]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nope/here", "model.path: there is no directory '/nope/here'"),
        ("some-lab/some-model", "neither in the cache nor can the hub be reached"),
        ("no such name", "nor can it be a hub name"),
    ],
)
def test_a_model_that_is_not_there(path: str, words: str, say: Say) -> None:
    status, said = say(*of(path))
    assert status == 1 and words in said and "Traceback" not in said


def test_a_context_beyond_the_model(model: Path, say: Say) -> None:
    status, said = say(*of(model, "model.max_length=4096", "learner.tokens_per_micro_batch=8192"))
    assert status == 1
    assert "model.max_length: is 4096" in said and f"{POSITIONS} positions" in said


def test_a_checkpoint_that_cannot_be_trained(say: Say, tmp_path: Path) -> None:
    path = write_model(tmp_path / "unknown", model_type="qwne3")
    _, said = say(*of(path))
    assert "model.path: " in said and "model_type 'qwne3'" in said and "did you mean 'qwen3'?" in said
    path = write_model(tmp_path / "adapter")
    (path / "config.json").rename(path / "adapter_config.json")
    status, said = say(*of(path))
    assert status == 1 and "is a LoRA adapter" in said and "merge it first" in said


def test_a_run_without_a_checkpoint_is_no_model(say: Say, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    _, said = say(*of(tmp_path))
    assert "is a run that has no checkpoint yet" in said


@pytest.mark.parametrize("made_here", [True, False])
def test_prompts_beyond_the_context(made_here: bool, model: Path, say: Say) -> None:
    asks = 'environments=[{ name = "asks", options = { characters = 40 } }]'
    status, said = say(*(["run", QUICK, *options(asks)] if made_here else of(model, asks)))
    assert status == 1
    assert "longer than 26 tokens (model.max_length less max_new_tokens)" in said and "environments.0: " in said


def test_an_attention_that_is_not_installed(say: Say) -> None:
    _, said = say("run", QUICK, *options("learner.attention=flash_attention_2"))
    assert "learner.attention: is 'flash_attention_2'" in said and "leave it empty" in said


def test_kernels_that_are_not_installed(say: Say) -> None:
    status, said = say("run", QUICK, *options("learner.kernels=liger"))
    assert status == 1 and "learner.kernels: is 'liger'" in said and "rlserve[liger]" in said


def test_cores_that_are_not_there(say: Say) -> None:
    _, said = say("run", QUICK, *options("launch.cores={ learner = [4095] }"))
    assert "launch.cores.learner: names [4095]" in said


def test_a_right_configuration_is_right(model: Path, say: Say) -> None:
    assert say(*of(model), "--dry-run") == (0, "")


def test_the_doctor_says_the_same(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    from rlserve.cli import doctor
    from rlserve.config.load import load_run

    found = list(doctor.check_configuration(load_run([QUICK], ["algorithm.type=grp0"])))
    assert [f.state for f in found] == [doctor.State.MISSING] and "'grpo'" in found[0].found
    assert next(doctor.check_configuration(load_run([QUICK]))).state is doctor.State.OK


def test_one_broken_plug_in_takes_no_other_out_of_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistaken_plugins.install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["verifier", "list"]) == 0
    printed = capsys.readouterr().out
    assert "unimportable" in printed and "BROKEN: 'unimportable' cannot be imported" in printed
    assert "\nmath " in printed and "\nregex " in printed
    assert main(["env", "list"]) == 0
    printed = capsys.readouterr().out
    assert "BROKEN: 'unimportable' cannot be imported" in printed
    assert "\ncalculator " in printed and "\nguess " in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "dataset"], "--option.path: is missing"),
        (["check", "dataset"], "--option.path: is missing"),
        (["sample", "dataset", "--option", "pth=x"], "did you mean 'path'?"),
        (["check", "arithmetic", "--option", "foo=1"], "--option.foo: is not an option of 'arithmetic'"),
        (["sample", "arithmetik"], "did you mean 'arithmetic'?"),
        (["sample", "arithmetic", "--split", "tain"], "did you mean 'train'?"),
        (["sample", "dataset", "--option", "path=/nope"], "'/nope' cannot be read"),
    ],
)
def test_an_environment_asked_for_in_the_wrong_way(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["env", *arguments]) == 1
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
