"""The configurations of ``eval`` and ``generate``: what they take of a run's, and what belongs to training alone."""

from pathlib import Path

from rlserve.config.load import load_run
from rlserve.library.measure import evaluation_config, sampling_config

QUICK = Path(__file__).parents[2] / "configs" / "quickstart.toml"
RUN = load_run(
    [QUICK],
    [
        "evaluate.samples=8",
        "evaluate.k=[4, 8]",
        "evaluate.keep_best=pass@8",
        "evaluate.patience=3",
        'evaluate.sets=[{ name = "hard", environment = "arithmetic", problems = 7 }]',
        'trackers=[{ type = "wandb" }]',
    ],
)


def test_an_evaluation_measures_as_the_run_does_unless_it_is_asked_otherwise() -> None:
    config = evaluation_config(RUN, "/model", "/tmp")
    assert (config.steps, config.model.path, config.trackers) == (0, "/model", ())
    assert config.evaluate == RUN.evaluate.model_copy(update={"keep_best": "", "patience": 0})
    fewer = evaluation_config(RUN, "/model", "/tmp", problems=5, samples=2, temperature=0.0)
    assert (fewer.evaluate.problems, fewer.evaluate.sizes, fewer.evaluate.temperature) == (5, (2,), 0.0)


def test_generating_asks_for_the_mixture_alone() -> None:
    config = sampling_config(RUN, "/model", "/tmp", problems=10, samples=1, temperature=1.0, held_out=False)
    assert (config.evaluate.problems, config.evaluate.samples, config.evaluate.sets) == (10, 1, ())
    assert config.evaluate.from_training and not config.trackers
