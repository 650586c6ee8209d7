"""Checks models as transformers would load them, and prompts in their tokens; torch is not loaded."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlserve import hugging_face
from rlserve.config.run import RunConfig
from rlserve.config.tables.learner import LoraConfig
from rlserve.config.tables.teacher import START
from rlserve.engines.vllm.options import head_problem
from rlserve.errors import RlserveError
from rlserve.launch.preflight.adapters import check_adapters
from rlserve.launch.preflight.checkpoint import (
    check_files,
    directory_of,
    head_size_of,
    positions_of,
    read_config,
)
from rlserve.launch.preflight.finding import Finding, warning
from rlserve.launch.preflight.tasks import Taken
from rlserve.nearest import nearest
from rlserve.plugins import describe_exception
from rlserve.records import Task
from rlserve.tokens.prompts import encode_prompt
from rlserve.tokens.tokenizer import load_tokenizer

UNLIMITED = 2**40
"""Tokens: prompts are measured here, not refused."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A model that the configuration names."""

    key: str
    """Key that names it: ``model.path``, or ``teachers.0.model``."""
    path: str
    max_length: int
    length_key: str
    engine: str = ""
    """Engine that loads it, beside the learner."""
    lora: LoraConfig | None = None
    """Adapters that are trained in it."""

    @property
    def stage(self) -> str:
        """Name of the stage that checks it."""
        return f"model {self.key}"


def asked_models(config: RunConfig) -> list[Asked]:
    """Every model of the configuration that is not made by the run."""
    found = []
    if config.model.path:
        sizes = config.model.max_length, "model.max_length"
        found.append(
            Asked("model.path", config.model.path, *sizes, engine=config.rollout.engine, lora=config.learner.lora)
        )
    for index, teacher in enumerate(config.teachers):
        if teacher.model and teacher.model != START:
            key = f"teachers.{index}"
            found.append(Asked(f"{key}.model", teacher.model, teacher.max_length, f"{key}.max_length", teacher.engine))
    return found


def look_at_model(asked: Asked) -> Iterator[Finding]:
    """Faults that keep the model from being loaded, or from ``max_length``."""
    directory = directory_of(asked.path)
    if directory is None:
        try:
            directory = _from_hub(asked)
        except RlserveError as error:
            yield Finding(str(error))
            return
        if not hugging_face.answers() and not hugging_face.is_offline():
            yield warning(
                f"{asked.key}: {asked.path!r} comes from the cache, for the hub cannot be reached; export "
                "HF_HUB_OFFLINE=1, or each process tries to reach it for half a minute and more"
            )
    # Stop here: on a broken checkpoint the checks below would only report what follows from these faults.
    elif faults := list(check_files(directory, asked.key)):
        yield from faults
        return
    config = read_config(directory)
    if isinstance(config, str):
        yield Finding(f"{asked.key}: {config}")
        return
    yield from check_adapters(directory, key=asked.key, lora=asked.lora)
    yield from _check_length(asked, config)
    if asked.engine == "vllm" and (problem := head_problem(head_size_of(config))):
        yield Finding(f"{asked.key}: {asked.path!r} has {problem}; take another model, or a GPU")
        return
    # Before the first import of transformers, which looks for torch once.
    hide_torch()
    if problem := _architecture_problem(config):
        yield Finding(f"{asked.key}: {asked.path!r} {problem}")
        return
    yield from _check_tokenizer(asked, config)


def _check_length(asked: Asked, config: Mapping[str, Any]) -> Iterator[Finding]:
    positions = positions_of(config)
    if positions is not None and asked.max_length > positions:
        yield Finding(
            f"{asked.length_key}: is {asked.max_length}, but {asked.path!r} has {positions} positions "
            f"(max_position_embeddings); set it to {positions} or less"
        )


def _from_hub(asked: Asked) -> Path:
    """The cache directory of a hub name's ``config.json``. Raises RlserveError with the reason when there is none."""
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    here = f"{asked.key}: {asked.path!r} is no directory here"
    unreachable = RlserveError(
        f"{here}, and as a hub name it is neither in the cache nor can the hub be reached; give a directory, or "
        "download the model where there is a network"
    )
    try:
        # It returns a path, None, or a sentinel object for a file that the hub is known to lack.
        if isinstance(cached := try_to_load_from_cache(asked.path, "config.json"), str):
            return Path(cached).parent
        if not hugging_face.answers():  # its client would retry for minutes
            raise unreachable
        return Path(hf_hub_download(asked.path, "config.json", etag_timeout=hugging_face.SECONDS)).parent
    # The order of these clauses matters: GatedRepoError is a RepositoryNotFoundError, and LocalEntryNotFoundError an
    # EntryNotFoundError.
    except errors.GatedRepoError:
        raise RlserveError(f"{here}, and its hub page is gated: accept its terms and log in (hf auth login)") from None
    except errors.RepositoryNotFoundError:
        raise RlserveError(
            f"{here}, and the hub has no such model (or it is private: hf auth login); look at the name again"
        ) from None
    except errors.HFValidationError:
        raise RlserveError(f"{here}, nor can it be a hub name; give a checkpoint, a run, or a hub name") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise unreachable from None
    except errors.EntryNotFoundError:
        raise RlserveError(
            f"{here}, and the hub's model of that name has no config.json (a LoRA adapter? merge it first)"
        ) from None
    except RlserveError:
        raise
    except Exception as error:
        raise RlserveError(f"{here}, and as a hub name it cannot be looked up ({type(error).__name__})") from None


def hide_torch() -> None:
    """Make transformers believe that torch is not installed: its import takes seconds. No-op once either is loaded."""
    if "torch" not in sys.modules and "transformers" not in sys.modules:
        # importlib.util.find_spec returns None for such an entry, and transformers' is_torch_available asks find_spec.
        sys.modules["torch"] = None  # type: ignore[assignment]


def _architecture_problem(config: Mapping[str, Any]) -> str:
    auto = "transformers.models.auto"
    # Tables of names: no module of a model is imported.
    known = importlib.import_module(f"{auto}.configuration_auto").CONFIG_MAPPING_NAMES
    written_by = importlib.import_module(f"{auto}.modeling_auto").MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    kind = str(config.get("model_type"))
    if kind in written_by:
        return ""
    if kind in known:
        return f"is of model_type {kind!r}, which transformers has no causal language model for; give another model"
    version = importlib.import_module("transformers").__version__
    near = nearest(kind, known)
    remote = "; code that comes with a model is not run" if config.get("auto_map") else ""
    hint = f"; did you mean {near!r}?" if near else ""
    return f"is of model_type {kind!r}, which transformers {version} does not know{hint}{remote}"


def _check_tokenizer(asked: Asked, config: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        # The run's own loader, so that what passes here loads there.
        tokenizer: Any = _tokenizer(asked.path)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        yield Finding(f"{asked.key}: the tokenizer of {asked.path!r} cannot be loaded: {type(error).__name__}: {said}")
        return
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_ids):  # transformers makes an empty one
        yield Finding(f"{asked.key}: {asked.path!r} has no tokenizer (tokenizer.json); copy the checkpoint again")
        return
    inner = config.get("text_config")
    rows = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, Mapping) else None)
    # Embeddings are often padded beyond the tokenizer's size, which is harmless; an id beyond the embeddings is an
    # index error in the first batch.
    largest = max(tokenizer.get_vocab().values(), default=0)
    if isinstance(rows, int) and largest >= rows:
        yield Finding(
            f"{asked.key}: the tokenizer of {asked.path!r} has token {largest}, but the model only {rows} "
            "(vocab_size); they do not belong together"
        )


def _tokenizer(path: str, template_arguments: Mapping[str, Any] | None = None) -> Any:
    directory = directory_of(path)
    if directory is not None:
        return load_tokenizer(str(directory), template_arguments)
    with hugging_face.from_the_cache(not hugging_face.answers()):
        return load_tokenizer(path, template_arguments)


def look_at_prompts(config: RunConfig, taken: Sequence[Taken]) -> Iterator[Finding]:
    """Whether prompts leave room for ``max_new_tokens``, and the chat template accepts them."""
    if not taken:
        return
    made = config.pretrain.tokenizer.type if config.pretrain else ""
    # With a tokenizer of single characters, characters are the tokens.
    if made and made != "characters":  # its tokenizer is not trained yet
        return
    count = _characters
    if not made:
        hide_torch()
        count = partial(_tokens, _tokenizer(config.model.path, config.model.chat_template_kwargs))
    for part in taken:
        yield from _check_prompts(config, count, part)


def _check_prompts(config: RunConfig, count: Callable[[Task], int], part: Taken) -> Iterator[Finding]:
    section = config.environments[part.index]
    where = f"environments.{part.index}"
    # Workers drop a prompt that does not fit beside max_new_tokens; nothing is cut.
    room = config.model.max_length - (section.sampling.max_new_tokens or config.rollout.max_new_tokens)
    lengths, refusals = [], []
    for task in part.tasks:
        try:
            lengths.append(count(task))
        except Exception as error:
            refusals.append(
                f"task {task.task_id!r}: {error if isinstance(error, RlserveError) else describe_exception(error)}"
            )
    tried = f"{len(part.tasks)} prompts tried of {section.name!r}, split {part.split!r}"
    if refusals:
        # Workers drop tasks that they refuse, and the run goes on with the others: a fault only where every task tried
        # is refused.
        every = len(refusals) == len(part.tasks)
        yield Finding(f"{where}: {len(refusals)} of {tried} cannot be written in tokens: {refusals[0]}", is_fault=every)
    long = [length for length in lengths if length > room]
    if not long:
        return
    message = (
        f"{where}: {len(long)} of {tried} are longer than {room} tokens (model.max_length less max_new_tokens), the "
        f"longest {max(long)}; raise model.max_length or lower rollout.max_new_tokens"
    )
    yield Finding(message) if len(long) == len(lengths) else warning(f"{message}; they are dropped")


def _characters(task: Task) -> int:
    """Length of a prompt in characters, for a tokenizer of single characters."""
    parts = task.prompt if not isinstance(task.prompt, str) else (task.prompt,)
    return sum(len(part) if isinstance(part, str) else len(getattr(part, "content", " ")) for part in parts)


def _tokens(tokenizer: Any, task: Task) -> int:
    return len(encode_prompt(tokenizer, task, max_tokens=UNLIMITED).token_ids)
