"""Whole runs that train adapters: published alone, resumed, measured, exported; the base is every reference."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlserve.actors.checkpoints import latest
from rlserve.cli.main import main
from rlserve.models.adapter_files import adapter_at
from tests.support.counts import check_counts_add_up

pytestmark = [pytest.mark.whole, pytest.mark.timeout(1200)]
Arguments = Callable[[Any], Sequence[str]]
SETS = ("learner.lora.rank=8", "learner.lr=3e-3", "learner.warmup_steps=0", "learner.groups_per_step=16")


def words(*sets: str) -> list[str]:
    return [word for change in (*SETS, *sets) for word in ("--set", change)]


@pytest.fixture(scope="module")
def trained(new_module_run: Callable[[str], Any], small_run_arguments: Arguments) -> Any:
    """Pipeline GRPO with a divergence from the reference, stopped after 4 steps and resumed for 2 more."""
    run = new_module_run("lora")
    sets = ["steps=4", "checkpoint.every_steps=2", "algorithm.kl.coefficient=0.01"]
    run.start(*small_run_arguments(run), *words(*sets))
    assert run.wait(400) == 0, run.tail()
    run.start("--resume", str(run.root), "--set", "steps=6")
    assert run.wait(400) == 0, run.tail()
    return run


def test_grpo_trains_adapters_and_publishes_them_alone(trained: Any) -> None:
    rows = trained.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    check_counts_add_up(trained.summary()["groups"])
    # The policy begins as its base, which is the reference, and is served so.
    assert max(rows[0][f"algorithm/{name}_kl{end}"] for name, end in (("mismatch", ""), ("reference", "_k3"))) < 1e-9
    assert rows[-1]["algorithm/reference_kl_k3"] > 1e-3
    checkpoint = latest(trained.root / "checkpoints")
    assert checkpoint is not None and checkpoint.base_digest
    assert not list(checkpoint.path.glob("model*.safetensors"))
    base = Path(adapter_at(checkpoint.path).base) / "model.safetensors"
    # 8 x (in + out) numbers instead of in x out of each layer: a tenth of this small model, a hundredth of a large one.
    assert (checkpoint.path / "adapter_model.safetensors").stat().st_size < 0.12 * base.stat().st_size


def test_a_run_with_adapters_is_measured_and_talked_to(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(trained.root), "--problems", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 <= found["accuracy"] <= 1 and found["problems"] == 40
    assert main(["chat", str(trained.root), "--say", "3+8+5=", "--temperature", "0", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out.strip()


def test_exports_are_read_by_transformers_and_peft_oracle(trained: Any, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    assert main(["export", str(trained.root), str(tmp_path / "whole")]) == 0
    assert main(["export", str(trained.root), str(tmp_path / "adapter"), "--adapter"]) == 0
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()(ids).logits
        theirs = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter")).eval()
        torch.testing.assert_close(merged, theirs(ids).logits, atol=3e-5, rtol=0)
        with theirs.disable_adapter():
            assert (merged - theirs(ids).logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm.type": "dpo"},
        {"algorithm.type": "dpo", "sync.every_steps": "2"},
        {
            "algorithm.type": "distill",
            "teachers": '[{ name = "big", model = "QUICK", dtype = "float32", max_length = 64 }]',
        },
    ],
    ids=["online dpo", "semi-online dpo", "distillation"],
)
def test_other_algorithms_train_adapters_too(
    new_run: Callable[[str], Any], small_run_arguments: Arguments, quickstart: Any, changes: dict[str, str]
) -> None:
    run = new_run("lora")
    sets = [f"{key}={value.replace('QUICK', str(quickstart.root))}" for key, value in changes.items()]
    run.start(*small_run_arguments(run), "--unset", "algorithm", *words("steps=4", "checkpoint.every_steps=0", *sets))
    assert run.wait(400) == 0, run.tail()
    rows = run.metrics()
    assert len(rows) == 4 and all(row["learner/updates"] == 1 for row in rows)
    check_counts_add_up(run.summary()["groups"])
    if changes["algorithm.type"] == "dpo":
        # The policy begins as its base, which is the reference: the loss is ln 2.
        assert rows[0]["learner/loss"] == pytest.approx(0.69, abs=0.05)
