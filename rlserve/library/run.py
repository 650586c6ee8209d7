"""Run: a run on disk, while it goes on or after its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlserve.config.load import load_run, merge, validate, without
from rlserve.config.paths import RunPaths
from rlserve.config.run import RunConfig
from rlserve.errors import InvalidRequest, RlserveError
from rlserve.launch.preflight.checkpoint import directory_of
from rlserve.launch.run import STOPPED, Display, Silent
from rlserve.library.inputs import Inputs
from rlserve.library.keywords import DATA, configured
from rlserve.library.measure import evaluation_config, measurement, ran_once, samples_of, sampling_config
from rlserve.library.start import checked_against, resumed
from rlserve.library.start import resume as start_again
from rlserve.observability.events import read_json_lines
from rlserve.observability.metrics import STEP_METRIC
from rlserve.observability.outcome import outcome_lines
from rlserve.observability.summary import read_json


class Run:
    """A run in its directory.

    Example::

        run = rlserve.Run("runs/mine")
        run.metrics[-1]["received/reward_mean"], run.checkpoint
        run.eval(problems=100)["reward_mean"]
        run.generate(["2+2="], samples=4)
    """

    def __init__(self, directory: str | Path) -> None:
        """Raises InvalidRequest for a directory that is no run."""
        self.paths = RunPaths(Path(directory))
        if not self.paths.config.exists():
            raise InvalidRequest(f"directory: {str(directory)!r} is not a run (it has no {self.paths.config.name})")

    def __repr__(self) -> str:
        summary = self.summary
        numbers = [f"{summary['steps']} of {self.config.steps} steps"] if "steps" in summary else []
        return (
            f"<rlserve run {str(self.paths.root)!r}: {', '.join([*numbers, *outcome_lines(summary)]) or 'no result'}>"
        )

    @property
    def config(self) -> RunConfig:
        """Its configuration."""
        return load_run([self.paths.config])

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The numbers of each step so far, e.g. ``{"step": 3, "received/reward_mean": 0.5, ...}``."""
        return [dict(row) for row in read_json_lines(self.paths.metrics) if STEP_METRIC in row]

    @property
    def measurements(self) -> list[dict[str, Any]]:
        """The numbers of each held-out measurement so far, e.g. ``{"step": 0, "evaluate/accuracy": 0.5, ...}``."""
        return [dict(row) for row in read_json_lines(self.paths.metrics) if "evaluate/problems" in row]

    @property
    def summary(self) -> dict[str, Any]:
        """The result in one object; empty before the end."""
        return read_json(self.paths.summary)

    @property
    def report(self) -> Path:
        """The page with plots and samples."""
        return self.paths.report

    @property
    def checkpoint(self) -> Path:
        """Directory of the newest checkpoint, which ``transformers`` and vLLM load; the start model before any.

        Raises InvalidRequest if there is neither.
        """
        place = directory_of(str(self.paths.root))
        found = self.paths.start_model if place in (None, self.paths.root) else place
        if found is None or not found.is_dir():
            raise InvalidRequest(f"checkpoint: {str(self.paths.root)!r} has none yet; train a step")
        return found

    def eval(
        self,
        *,
        problems: int | None = None,
        samples: int | None = None,
        temperature: float | None = None,
        progress: bool = True,
    ) -> dict[str, Any]:
        """Held-out mean reward and more of the newest checkpoint, accuracy where rewards are right or wrong.

        What is None is that of the run. Raises RlserveError.
        """
        asked: dict[str, Any] = {"problems": problems, "samples": samples, "temperature": temperature}
        model, config = str(self.checkpoint.resolve()), self.config
        with ran_once(lambda folder: evaluation_config(config, model, folder, **asked), _shown(progress)) as once:
            _refuse_a_stop(once[1])
            return measurement(once[0])

    def generate(
        self,
        prompts: Sequence[str] | None = None,
        *,
        problems: int = 8,
        samples: int = 1,
        temperature: float = 1.0,
        held_out: bool = True,
        progress: bool = True,
    ) -> list[dict[str, Any]]:
        """Samples of the newest checkpoint: for each of ``prompts``, else for tasks of the run, with their rewards.

        Each has ``prompt`` and ``completion``, and for tasks ``reward``. Raises RlserveError.
        """
        model, config = str(self.checkpoint.resolve()), self.config
        if isinstance(prompts, str):
            raise InvalidRequest(f"prompts: is {prompts!r}; give a list of texts")

        def make(folder: str) -> RunConfig:
            asked = config if prompts is None else _with_prompts(config, prompts, folder)
            return sampling_config(
                asked,
                model,
                folder,
                problems=problems if prompts is None else len(prompts),
                samples=samples,
                temperature=temperature,
                held_out=held_out and prompts is None,
            )

        with ran_once(make, _shown(progress)) as once:
            _refuse_a_stop(once[1])
            rows = samples_of(once[0])
        if prompts is None:
            return rows
        # A task's id ends with the number of its row: a prompt in the form of a chat is no longer as it was given.
        numbered = [(int(row["task_id"].rpartition("/")[2]), row["completion"]) for row in rows]
        return [
            {"prompt": prompts[number], "completion": completion}
            for number, completion in sorted(numbered, key=lambda pair: pair[0])
        ]

    def resume(self, *, preflight: bool = True, progress: bool = True, **keywords: Any) -> "Run":
        """Go on from the newest checkpoint, to its end, with other keys such as ``steps=200``; None unsets a key.

        Raises RlserveError; KeyboardInterrupt after a stop.
        """
        status = start_again(
            self.paths.root,
            lambda: checked_against(self.paths, changed(resumed(self.paths), keywords)),
            preflight=preflight,
            display=_shown(progress),
        )
        _refuse_a_stop(status)
        return self


def changed(config: RunConfig, keywords: Mapping[str, Any]) -> RunConfig:
    """``config`` with keywords as in ``rlserve.train``."""
    values = config.model_dump(exclude_none=True)
    new = configured(keywords, config.algorithm.type)
    for key in [key for key, value in new.items() if value is None]:
        del new[key]
        values = without(RunConfig, values, key)
    return validate(RunConfig, merge(values, new))


def _with_prompts(config: RunConfig, prompts: Sequence[str], folder: str) -> RunConfig:
    """``config`` with the prompts as its tasks. Their rewards mean nothing."""
    inputs = Inputs(RunPaths(Path(folder)))
    options = inputs.data([{"prompt": text} for text in prompts])
    for name, write in inputs.files.items():
        inputs.place(name).parent.mkdir(parents=True, exist_ok=True)
        write(inputs.place(name))
    # In the form in which the run asks its model.
    form = next((e.options for e in config.environments if (e.plugin or e.name) == DATA), {})
    options |= {key: form[key] for key in ("prompt_format", "system") if key in form}
    environment = {"name": "prompts", "plugin": DATA, "options": {**options, "verifier": "length"}}
    values = config.model_dump(exclude_none=True, exclude={"environments", "reward"})
    return validate(RunConfig, {**values, "environments": [environment]})


def _shown(progress: bool) -> Display | None:
    return None if progress else Silent()


def _refuse_a_stop(status: int) -> None:
    if status == STOPPED:
        raise KeyboardInterrupt
    if status:
        raise RlserveError(f"the run ended with exit code {status}")
