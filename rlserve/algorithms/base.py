"""What an algorithm is to the pipeline, which knows none by name.

An algorithm decides which groups teach something (``why_drop``), what each trajectory is trained for
(``prepare``), and what the loss of a micro-batch is (``loss``). All three are pure. Constructed as
``cls(config)`` with the section of the run configuration whose ``type`` is its registered name.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from rlserve.algorithms.batch import (
    Assignment,
    Denominator,
    GroupOutcome,
    LossOutput,
    PolicyOutputs,
    TokenBatch,
)


@runtime_checkable
class Algorithm(Protocol):
    """One way to train."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of what must be there beside the log-probabilities.

        Optional fields of ``PolicyOutputs`` and ``TokenBatch`` (``"reference_logprobs"``: have a reference
        model score the batch); and ``"entropy_gradient"`` if the loss differentiates the entropy.
        """
        ...

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """Why a group teaches nothing, as a closed word for counters; None when it does teach."""
        ...

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """The sequences of the optimizer batch; a trajectory may be left out or serve more than once."""
        ...

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """This micro-batch's share of the loss. An empty micro-batch yields 0 with a gradient of zeros."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """An algorithm with a memory between batches: a checkpoint keeps ``state`` and gives it back."""

    def state(self) -> dict[str, float]:
        """Plain numbers by name."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Undo ``state``."""
        ...
