"""One run of TRL's GRPOTrainer on the quick start's task, in a process of its own.

``python -m rlserve.bench.peer.trl_run OPTIONS.json`` writes one line of JSON a step to ``out``. With ``engine =
"vllm"`` the colocated engine needs three changes to run on vLLM's CPU build: an executor within this process instead of
an external launcher; eager mode with a bounded KV cache; and weights by ``reload_weights``, since the CPU build repacks
linear layers and cannot load single tensors.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve import plugins

STARTED = time.time()  # before torch, TRL and vLLM are imported, whose time counts in seconds_since_start


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a run, from its JSON file."""

    engine: str
    """``"transformers"`` or ``"vllm"``."""
    model: str
    out: str
    seed: int
    steps: int
    stop_accuracy: float
    window: int
    lr: float
    warmup_steps: int
    prompts_per_step: int
    group_size: int
    max_new_tokens: int
    max_length: int


def main() -> int:
    """Train, and write a line for each step."""
    options = Options(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    if options.engine == "vllm":
        _let_vllm_run_here(options)
    trainer = _trainer(options)
    trainer.train()
    return 0


def _trainer(options: Options) -> Any:
    import datasets
    from transformers import AutoTokenizer, TrainerCallback

    trl: Any = importlib.import_module("trl")
    environment = plugins.load(plugins.ENVIRONMENT_GROUP, "arithmetic")()
    tasks = [environment.task("train", i, options.seed) for i in range(options.steps * options.prompts_per_step)]
    rows = [{"prompt": task.prompt, "payload": task.payload.decode()} for task in tasks]
    recorder = _Recorder(options)

    class Stop(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            recorder.training_begins()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            recorder.step_ended(state.global_step)
            control.should_training_stop = recorder.is_there

    micro = options.prompts_per_step * options.group_size // 4
    # As in rlserve's run: a constant denominator ("dr_grpo"), rewards scaled by the group's deviation, no penalty to a
    # reference, symmetric clipping, AdamW with these betas.
    arguments = trl.GRPOConfig(
        output_dir=str(Path(options.out).with_suffix("")),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=4,
        num_generations=options.group_size,
        max_completion_length=options.max_new_tokens,
        max_steps=options.steps,
        learning_rate=options.lr,
        warmup_steps=options.warmup_steps,
        lr_scheduler_type="constant_with_warmup",
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=0.0,
        epsilon=0.2,
        loss_type="dr_grpo",
        scale_rewards="group",
        temperature=1.0,
        top_k=0,
        use_vllm=options.engine == "vllm",
        vllm_max_model_length=options.max_length,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=options.seed,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(options.model)
    return trl.GRPOTrainer(
        model=options.model,
        reward_funcs=_reward(recorder),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Stop()],
    )


class _Recorder:
    """Collects rewards of the samples and writes one line for each step."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._file = open(options.out, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the process
        self._began: float | None = None
        self._rewards: list[float] = []
        self._recent: list[float] = []
        self._samples = 0

    def generated(self, rewards: Sequence[float]) -> None:
        """Add the rewards of one batch of samples."""
        self._rewards += rewards

    def training_begins(self) -> None:
        """Start the clock ``seconds``: everything is loaded, and the first generation follows."""
        self._began = time.time()

    def step_ended(self, step: int) -> None:
        """Write the line of a step."""
        self._samples += len(self._rewards)
        accuracy = sum(self._rewards) / max(len(self._rewards), 1)
        self._rewards = []
        self._recent = [*self._recent, accuracy][-self._options.window :]
        times = os.times()
        line = {
            "step": step,
            "samples": self._samples,
            "accuracy": accuracy,
            "seconds": time.time() - (self._began or STARTED),
            "seconds_since_start": time.time() - STARTED,
            "processor_seconds": times.user + times.system,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    @property
    def is_there(self) -> bool:
        """Whether the run reached its accuracy."""
        full = len(self._recent) == self._options.window
        return full and sum(self._recent) / self._options.window >= self._options.stop_accuracy


def _reward(recorder: _Recorder) -> Callable[..., list[float]]:
    verifier = plugins.load(plugins.VERIFIER_GROUP, "exact")()

    def reward(prompts: Sequence[str], completions: Sequence[str], payload: Sequence[str], **_: Any) -> list[float]:
        found = [
            float(verifier.verify(completion, given.encode(), prompt).reward)
            for prompt, completion, given in zip(prompts, completions, payload, strict=True)
        ]
        recorder.generated(found)
        return found

    return reward


def _let_vllm_run_here(options: Options) -> None:
    """Change TRL's use of vLLM so that it runs on vLLM's CPU build; see the module's docstring."""
    # Before vLLM is imported.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    module: Any = importlib.import_module("trl.generation.vllm_generation")
    theirs = module.LLM

    def start(**arguments: Any) -> Any:
        # Neither applies to the CPU build: a share of a GPU's memory, and the sleep mode.
        given = {
            key: value for key, value in arguments.items() if key not in ("gpu_memory_utilization", "enable_sleep_mode")
        }
        given |= {
            "distributed_executor_backend": "uni",
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "kv_cache_memory_bytes": 2**26,
            "max_num_batched_tokens": 2048,
            "dtype": "float32",
        }
        return theirs(**given)

    def sync_weights(self: Any) -> None:
        runner = self.llm.llm_engine.model_executor.driver_worker.model_runner
        runner.reload_weights(weights_iterator=((name, value.data) for name, value in self._iter_named_params()))
        self.llm.reset_prefix_cache()  # its keys and values belong to the old weights

    module.LLM = start
    module.VLLMGeneration.sync_weights = sync_weights


if __name__ == "__main__":
    sys.exit(main())
