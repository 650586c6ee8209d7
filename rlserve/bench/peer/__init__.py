"""``rlserve bench peer``: pipeline GRPO against TRL's GRPOTrainer.

Same start, prompts, group size, learning rate and machine.

* ``compare``  ``measure``: both sides, interleaved seed by seed
* ``trl_run``  one run of TRL's trainer, a process of its own

To add another trainer: a module like ``trl_run`` and its name in ``compare.CONTESTANTS``.
"""

from rlserve.bench.peer.compare import measure

__all__ = ["measure"]
