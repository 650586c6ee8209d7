"""A run that goes on is looked at, sampled from, paused, resumed and asked by the OpenAI API; so is a checkpoint."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from rlserve.records import Message
from rlserve.tokens.prompts import encode_prompt
from rlserve.tokens.tokenizer import load_tokenizer
from tests.support.groups import task as any_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]


def rollout(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rlserve.cli.main", "rollout", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def said(*arguments: str) -> str:
    done = rollout(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stands_still(run: Any, seconds: float = 5.0) -> bool:
    before = run.last_step()
    time.sleep(seconds)
    return bool(run.last_step() == before)


def test_a_worker_is_paused_seen_to_be_and_resumed(
    new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], Sequence[str]]
) -> None:
    run = new_run("control")
    directory = str(run.root)
    assert "there is no directory" in rollout("status", directory).stderr
    run.start(*small_run_arguments(run), "--set", "steps=100000", "--set", "stop_reward=2", "--set", "learner.lr=1e-9")
    run.wait_for_step(1, seconds=400)
    assert "rollout-0: working, version" in said("status", directory)
    text = said("sample", directory, "3+8=", "--text", "-n", "2", "--temperature", "0")
    assert text.count("--- version") == 2
    assert text.count("tokens, stop") + text.count("tokens, length") == 2
    assert (
        "no rollout worker rollout-9 is alive (known: rollout-0)"
        in rollout("pause", directory, "--worker", "rollout-9").stderr
    )

    assert "rollout-0: paused" in said("pause", directory)
    run.wait_until("stillness", lambda: stands_still(run), 200)
    status = subprocess.run(
        [sys.executable, "-m", "rlserve.cli.main", "status", directory], cwd=ROOT, capture_output=True, text=True
    )
    assert "paused yes" in status.stdout
    stopped_at = run.last_step()

    assert "rollout-0: working" in said("resume", directory)
    run.wait_for_step(stopped_at + 2, seconds=400)


START_SECONDS = 240.0


@contextmanager
def endpoint(log: Path, *arguments: str) -> Iterator[openai.OpenAI]:
    """A client of ``rlserve serve openai`` once it answers; the server must end well at SIGTERM."""
    command = [sys.executable, "-m", "rlserve.cli.main", "serve", "openai", *arguments, "--port", "0"]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, start_new_session=True)
    try:
        url = _wait_for(process, log, r"serving \S+ at (http://\S+)")
        yield openai.OpenAI(base_url=url, api_key="none", max_retries=8)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not (found := re.search(pattern, log.read_text(errors="replace"))):
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)
    return found[1]


def ask(client: openai.OpenAI, model: str) -> str:
    answer = client.completions.create(model=model, prompt="3+8+5=", max_tokens=24, temperature=0)
    return answer.choices[0].text


TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if thinking is defined and not thinking %}={% endif %}"
SILENT = "model.chat_template_kwargs={ thinking = false }"


def with_template(checkpoint: Path, place: Path) -> Path:
    """A copy whose chat template depends on an argument."""
    shutil.copytree(checkpoint.resolve(), place)
    (place / "chat_template.jinja").write_text(TEMPLATE)
    return place


def renders_as_in_training(client: openai.OpenAI, name: str, model: Path) -> bool:
    """Whether the endpoint reads a conversation in the tokens of training, and SILENT makes a difference to them."""
    task = replace(any_task(), prompt=(Message(role="user", content="3+8+5"),))
    trained, thinking = (
        list(encode_prompt(load_tokenizer(str(model), arguments), task, max_tokens=64).token_ids)
        for arguments in ({"thinking": False}, {})
    )
    messages = [{"role": "user", "content": "3+8+5"}]
    address = str(client.base_url).removesuffix("/v1/") + "/tokenize"
    asked = httpx.post(address, json={"model": name, "messages": messages}, timeout=60).json()
    return bool(asked["tokens"] == trained != thinking)


@pytest.mark.whole
def test_a_checkpoint_is_asked_by_the_openai_client(quickstart: Any, tmp_path: Path) -> None:
    newest = max((quickstart.root / "checkpoints").glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")))
    model = with_template(newest, tmp_path / "model")
    config = str(quickstart.root / "config.toml")
    with endpoint(tmp_path / "log", str(model), "--config", config, "--set", SILENT) as client:
        assert renders_as_in_training(client, "quickstart", model)
        assert [model.id for model in client.models.list()] == ["quickstart"]
        assert ask(client, "quickstart").rstrip().endswith("#6")
        streamed = client.completions.create(
            model="quickstart", prompt="3+8+5=", max_tokens=24, temperature=0, stream=True
        )
        assert "".join(part.choices[0].text for part in streamed).rstrip().endswith("#6")
        with pytest.raises(openai.NotFoundError):
            ask(client, "quickstat")


@pytest.mark.whole
def test_the_current_policy_is_asked_while_training_goes_on(
    new_run: Callable[[str], Any], small_run_arguments: Callable[[Any], Sequence[str]], tmp_path: Path
) -> None:
    run = new_run("live")
    arguments = small_run_arguments(run)
    start = tomllib.loads(Path(arguments[0]).read_text())["model"]["path"]
    model = with_template(Path(start), tmp_path / "model")
    sets = ("steps=100000", "checkpoint.every_steps=0", f"model.path={model}", SILENT)
    run.start(*arguments, *(word for change in sets for word in ("--set", change)))
    run.wait_for_step(1, 280)
    with endpoint(tmp_path / "log", str(run.root), "--live") as client:
        assert renders_as_in_training(client, "live", model)
        before = run.last_step()
        answers = [ask(client, "live")]
        run.wait_for_step(before + 3, 280)
        answers.append(ask(client, "live"))
        versions = [int(v) for v in re.findall(r"serves version (\d+)", (tmp_path / "log").read_text())]
        assert all(answers) and len(versions) > 1 and versions == sorted(versions) and versions[0] >= 1
        run.process.send_signal(signal.SIGINT)
        assert run.wait(120) == 130
        # The last weights stay when the run is over.
        assert ask(client, "live")
