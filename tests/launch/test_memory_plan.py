"""What a run will hold, and what is said where that does not fit."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlserve.actors.learner.train.ranks import needs_reference
from rlserve.algorithms import registry
from rlserve.cli.main import main
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.launch import gpus
from rlserve.launch.memory.check import check_memory, lines
from rlserve.launch.memory.fit import problems
from rlserve.launch.memory.plan import has_reference, plan_memory
from rlserve.launch.memory.shapes import shape_at, shape_of
from rlserve.memory.formulas import CONTEXT, GIB, LIGHT_PROCESS
from rlserve.memory.machine import Machine, here, named, of
from rlserve.memory.shape import KNOWN
from tests.support.models.learner_work import save_policy
from tests.support.processes.children import ROOT
from tests.support.tiny_disk import tiny_disk

ON_GPUS = sorted((ROOT / "configs" / "gpu").glob("*.toml"))
ONE_GPU = ROOT / "configs" / "gpu" / "one_gpu.toml"
QUICK = ROOT / "configs" / "quickstart.toml"


def one_gpu(*overrides: str) -> RunConfig:
    return load_run([ONE_GPU], overrides)


def told(config: RunConfig, machine: Machine) -> str:
    shape = shape_of(config)
    assert shape is not None
    return "\n".join(problems(config, machine, shape))


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("no_gpus")
@pytest.mark.parametrize("path", ON_GPUS, ids=lambda path: path.name)
def test_a_shipped_configuration_fits_the_machine_that_its_first_line_names(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = named(path.read_text().splitlines()[0])
    assert machine is not None and machine.gpus and machine.memory, "name it: on 8 GPUs of 80 GB and 512 GB of memory"
    assert main(["plan", str(path)]) == 0
    printed = capsys.readouterr().out
    assert f"fits {machine.name} ({path.name})" in printed and "KV cache" in printed


@pytest.mark.usefixtures("no_gpus")
def test_a_plan_for_a_card_that_is_too_small_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--gpu-memory", "48", "--gpus", "1", "--memory", "64"]
    assert main(["plan", str(ONE_GPU), *small, "--set", "learner.gradient_checkpointing=false"]) == 1
    printed = capsys.readouterr()
    assert "GPU 0 of the machine given has 44.7 GiB, but " in printed.err
    assert "--set 'learner.gradient_checkpointing=true' makes it fit" in printed.err
    assert "learner          GPU 0" in printed.out  # the table comes before the refusal
    assert main(["plan", str(ONE_GPU), *small]) == 0
    assert main(["plan", str(ONE_GPU), "--gpus", "1"]) == 1
    assert "give it with --gpus and --memory" in capsys.readouterr().err


@pytest.mark.usefixtures("no_gpus")
def test_the_shape_of_an_unknown_model_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = ["plan", str(ONE_GPU), "--set", "model.path=someone/model-of-theirs"]
    assert main(unknown) == 1
    assert "model.path: is 'someone/model-of-theirs', and the shape" in capsys.readouterr().err
    given = save_policy(tmp_path / "model") / "config.json"
    assert main([*unknown, "--model-config", str(given)]) == 0
    given.write_text("{}")
    assert main([*unknown, "--model-config", str(given)]) == 1
    assert f"--model-config: '{given}' is no config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "machine", "said"),
    [
        # The states of 8B take 137 GiB, and beside an engine there is no room for the rest of them either.
        (("model.path=Qwen/Qwen3-8B",), of(1, 80, 512), "no single key makes it fit: take more GPUs"),
        (("model.path=Qwen/Qwen3-4B",), of(1, 80, 512), "--set 'learner.deepspeed.zero_optimization={ offload_opt"),
        (("model.path=Qwen/Qwen3-4B",), of(1, 80, 64), "no single key makes it fit: take more GPUs"),
        (
            ("rollout.gpu_memory_fraction=0.6", "model.path=Qwen/Qwen3-1.7B"),
            of(1, 80, 64),
            "=0.4' makes it fit",
        ),
        (("learner.tokens_per_micro_batch=262144",), of(1, 48, 64), "tokens_per_micro_batch=131072' makes it fit"),
        (
            ("rollout.gpu_memory_fraction=0.03",),
            of(1, 80, 64),
            "for the KV cache, but one sequence of model",
        ),
        ((), of(1, 80, 12), "GiB of host memory, and the machine given has 11.2; rollout-0 alone needs 6.0"),
    ],
)
def test_what_does_not_fit_is_named_with_the_key(overrides: Sequence[str], machine: Machine, said: str) -> None:
    text = told(one_gpu(*overrides), machine)
    assert said in text
    assert text.partition(":")[0] in ("model.path", "rollout.gpu_memory_fraction", "learner.tokens_per_micro_batch")


def test_options_of_the_engine_are_planned_for() -> None:
    shape = KNOWN["Qwen/Qwen3-0.6B"]
    options = "rollout.options={ quantization = 'fp8', kv_cache_dtype = 'fp8', max_num_batched_tokens = 2048 }"
    plain, asked = (plan_memory(one_gpu(*given), of(1, 80, 64), shape) for given in ((), (options,)))
    before, after = (plan.processes[-1].memory.parts for plan in (plain, asked))
    assert (before["weights"], after["weights"]) == (2 * shape.parameters, shape.parameters)
    assert after["staging"] == before["staging"]  # it is published as it is trained
    assert after["activations"] < before["activations"] and after["KV cache"] > before["KV cache"]
    assert asked.longest == plain.longest // 2


def test_the_change_that_is_named_makes_it_fit() -> None:
    config = one_gpu("rollout.gpu_memory_fraction=0.6", "model.path=Qwen/Qwen3-1.7B")
    change = told(config, of(1, 80, 64)).partition("--set '")[2].partition("'")[0]
    assert told(one_gpu("model.path=Qwen/Qwen3-1.7B", change), of(1, 80, 64)) == ""


def test_several_processes_on_a_gpu_add_up() -> None:
    config = one_gpu()
    plan = plan_memory(config, of(1, 80, 64), KNOWN[config.model.path])
    learner, worker = plan.on("0")
    assert (learner.name, worker.name) == ("learner", "rollout-0")
    need = learner.memory.total + worker.memory.total + 2 * CONTEXT
    assert f"GPU 0                     {need / GIB:8.2f}  of 74.5" in list(lines(plan))
    assert plan.host == learner.host + worker.host + 3 * LIGHT_PROCESS + plan.shared


def test_a_teacher_is_in_the_plan() -> None:
    config = load_run([ROOT / "configs" / "gpu" / "distill_qwen.toml"])
    student = KNOWN["Qwen/Qwen3-1.7B"]
    plan = plan_memory(config, of(8, 80, 200), student)
    served = {p.name: p.memory.parts["weights"] for p in plan.processes if p.name.startswith("teacher")}
    assert served == dict.fromkeys(("teacher-qwen3-8b-0", "teacher-qwen3-8b-1"), 2 * KNOWN["Qwen/Qwen3-8B"].parameters)
    by_vllm = load_run([ROOT / "configs" / "gpu" / "distill_qwen.toml"], ["teachers.0.engine=vllm"])
    teacher = plan_memory(by_vllm, of(8, 80, 200), student).processes[-1].memory
    assert teacher.parts["KV cache"] and not teacher.parts["staging"]  # its weights never change


def test_a_reference_is_in_the_plan_where_the_algorithm_reads_one() -> None:
    with_kl = ["algorithm.kl={ coefficient = 0.1 }"]
    cases = [(kind, []) for kind in registry.names()] + [("grpo", with_kl), ("cispo", with_kl)]
    for kind, overrides in cases:
        if kind in ("distill", "mixed"):
            continue  # they need teachers
        config = load_run([QUICK], ["algorithm=" + kind, "rollout.group_size=8", *overrides])
        assert has_reference(config) == needs_reference(registry.create(config.algorithm)), kind


def test_on_a_cpu_all_is_host_memory(tmp_path: Path) -> None:
    config = load_run([QUICK], [f"directory={tmp_path}"])
    paths = RunPaths(tmp_path / "run")
    roomy = Machine(name="m", memory=8 * GIB, shared=GIB)
    assert not list(check_memory(config, paths, roomy))
    (finding,) = check_memory(config, paths, replace(roomy, memory=GIB))
    assert finding.is_fault and "of host memory, and m has 1.0" in finding.message


def test_weights_that_do_not_fit_into_shared_memory_need_room_on_the_disk(tmp_path: Path) -> None:
    model = save_policy(tmp_path / "model", hidden_size=256, vocab_size=4096)  # 3 versions: 26 MiB
    config = load_run([QUICK], [f"model.path={model}"], ["pretrain", "sft"])
    machine = Machine(name="m", shared=2**20)
    (finding,) = check_memory(config, RunPaths(tmp_path / "run"), machine)
    assert not finding.is_fault and "they go through the run directory" in finding.message
    with tiny_disk(tmp_path / "small", megabytes=4) as small:
        (finding,) = check_memory(config, RunPaths(small / "run"), machine)
        assert finding.is_fault and "make room there" in finding.message


def test_weights_may_be_staged_in_host_memory(tmp_path: Path) -> None:
    config = one_gpu("rollout.gpu_memory_fraction=0.58", f"directory={tmp_path}")
    # Learner, vLLM's share and both processes themselves take 37.4 GiB, the next weights 1.1 more.
    machine = Machine(name="m", gpus={"0": 38 * GIB}, shared=8 * GIB)
    (finding,) = check_memory(config, RunPaths(tmp_path / "run"), machine)
    assert not finding.is_fault and "staged in host memory" in finding.message
    assert not list(check_memory(config, RunPaths(tmp_path / "run"), replace(machine, gpus={"0": 48 * GIB})))


def test_ranks_need_shared_memory_for_their_messages(tmp_path: Path) -> None:
    config = one_gpu("learner.ranks=2", f"directory={tmp_path}")
    small = replace(of(3, 80, 64), shared=64 * 2**20)  # that of a container, by default
    said = [finding.message for finding in check_memory(config, RunPaths(tmp_path / "run"), small)]
    assert any(text.startswith("learner.ranks: is 2, which talk through") for text in said)
    assert not list(check_memory(config, RunPaths(tmp_path / "run"), replace(small, shared=8 * GIB)))


@pytest.mark.usefixtures("no_gpus")
def test_a_dry_run_shows_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(QUICK), "--dry-run", "--no-preflight", "--set", f"directory={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "#   memory on this machine" in printed and "#   host memory" in printed and "/dev/shm" in printed
    elsewhere = ["--unset", "pretrain", "--unset", "sft", "--set", "model.path=someone/model"]
    assert main(["run", str(QUICK), "--dry-run", "--no-preflight", *elsewhere]) == 0
    assert "#   memory: the shape of its model is not known here" in capsys.readouterr().out


def test_gpus_are_asked_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's own CUDA_VISIBLE_DEVICES, numbers or names, limits what is given out and planned for."""
    for number in range(4):
        (tmp_path / "gpus" / f"0000:0{number}").mkdir(parents=True)
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "gpus")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.visible_gpus() == ("0", "1", "2", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-b")
    assert gpus.visible_gpus() == ("3", "GPU-b")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '3, GPU-a, 81559'\necho '1, GPU-b, 143771'\necho '2, GPU-c, [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    machine = here(gpus.visible_gpus(), 0)
    assert machine.gpus == {"3": 81_559 * 2**20, "GPU-b": 143_771 * 2**20}
    tool.write_text("#!/bin/sh\nexit 9\n")
    silent = here(("0",), 0)
    # Without an answer nothing is refused for the card's size.
    assert silent.gpus == {"0": 0} and "GPU" not in told(one_gpu(), silent)


def test_a_run_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    model = save_policy(tmp_path / "model")
    assert shape_at(str(model)) == shape_at(str(model / "."))
    assert shape_at(str(tmp_path / "nothing/here/at/all")) is None
    assert shape_at("no such name!") is None


def test_a_machine_is_read_from_a_line() -> None:
    one = named("# With one GPU of 80 GB: learner and engine")
    assert one is not None and one.gpus == {"0": 80 * 10**9} and one.memory == 0
    two = named("# On 2 GPUs of 24 GB with 128 GB of memory.")
    assert two is not None and len(two.gpus) == 2 and two.memory == 128 * 10**9
    assert named("# Pipeline GRPO on GSM8K") is None
