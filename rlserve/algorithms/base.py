"""The interface of an algorithm; the pipeline imports none by name.

An algorithm decides which groups to drop (``why_drop``) and what each trajectory is trained for (``prepare``), and
computes the loss of a micro-batch (``loss``). All three are pure. It is constructed as ``cls(config)`` with the section
of the run configuration whose ``type`` is its registered name.
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
    """One way to train.

    Example, a group from its arrival to its gradient::

        algorithm = registry.create(config.algorithm)
        algorithm.why_drop(outcome)                    # None: it is queued; "zero_variance": it is dropped
        assignments = algorithm.prepare(outcomes)      # one for each sequence of the optimizer batch
        share = algorithm.loss(outputs, micro_batch, denominator)
        share.loss.backward()                          # the shares of all micro-batches add up
    """

    @property
    def needs(self) -> frozenset[str]:
        """Names of the optional fields of ``PolicyOutputs`` and ``TokenBatch`` that the loss reads.

        With ``"reference_logprobs"`` a reference model scores the batch. ``"entropy_gradient"`` is no field: it asks
        for an entropy that can be differentiated.
        """
        ...

    def why_drop(self, outcome: GroupOutcome) -> str | None:
        """One word, for counters, why no gradient comes from the group; None to train on it."""
        ...

    def prepare(self, outcomes: Sequence[GroupOutcome]) -> list[Assignment]:
        """The sequences of the optimizer batch; a trajectory may be left out, or assigned several times.

        It may run in another thread, while ``loss`` computes on the batch before. What it remembers of one batch for
        the next must be in ``Stateful.state``.
        """
        ...

    def loss(self, outputs: PolicyOutputs, batch: TokenBatch, denominator: Denominator) -> LossOutput:
        """This micro-batch's share of the loss. An empty micro-batch yields 0 with a gradient of zeros."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """An algorithm that carries numbers from batch to batch; a checkpoint keeps them."""

    def state(self) -> dict[str, float]:
        """The numbers, by name."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Undo ``state``."""
        ...
