"""Measures sampled accuracy on an environment's validation split while a model trains."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rlserve import plugins
from rlserve.config.tables.pretrain import StageConfig
from rlserve.errors import ConfigError
from rlserve.pretrain.corpus import Corpus, EnvironmentCorpus
from rlserve.pretrain.sampling import sample
from rlserve.records import Outcome, Task

SPLIT = "validation"


def accuracy_check(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    config: StageConfig,
    *,
    max_length: int,
    seed: int,
) -> Callable[[], float] | None:
    """A function that measures the share of the first ``config.check_problems`` tasks solved by one sample each.

    None if ``config.stop_accuracy`` is 0, because it is then not needed. The tasks' own verifier runs in this process,
    so only its own limits apply.
    """
    if not config.stop_accuracy:
        return None
    tasks = _tasks(corpus, config.check_problems, seed)
    # Encoded once: each check asks the same problems, so that its numbers differ by the model alone.
    prompts = [tokenizer.encode(str(task.prompt)) for task in tasks]
    room = max_length - max(map(len, prompts))
    verifier = plugins.load(plugins.VERIFIER_GROUP, tasks[0].verifier)()
    # A generator of its own: the check must not change the draws of the training around it.
    generator = torch.Generator().manual_seed(seed)

    def check() -> float:
        # A checkpoint given to SFT may have dropout, which would lower what is measured.
        model.eval()
        completions = sample(model, prompts, max_new_tokens=room, eos_id=tokenizer.eos_token_id, generator=generator)
        model.train()
        texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
        return sum(_solved(verifier, *pair) for pair in zip(texts, tasks, strict=True)) / len(tasks)

    return check


def _tasks(corpus: Corpus, count: int, seed: int) -> list[Task]:
    environment = corpus.environment if isinstance(corpus, EnvironmentCorpus) else None
    if environment is None or SPLIT not in environment.splits:
        raise ConfigError(
            f"stage.stop_accuracy: is set, but the corpus has no {SPLIT!r} split to measure it on; set it to 0, "
            "or use an environment that has one"
        )
    return [environment.task(SPLIT, index, seed) for index in range(count)]


def _solved(verifier: Any, text: str, task: Task) -> bool:
    verdict = verifier.verify(text, task.payload, str(task.prompt))
    return bool(verdict.outcome is Outcome.PASS)
