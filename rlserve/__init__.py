"""rlserve: a reinforcement-learning-centric post-training service.

From the bottom up (``tests/test_layers.py`` checks the direction of imports):

* ``records``        frozen dataclasses, one per message
* ``errors``, ``nearest``  the errors raised on purpose, and hints to the nearest known name
* ``text_files``, ``gather``, ``importing``, ``idle_threads``, ``processor_time``, ``cpu_kernels``,
  ``hugging_face``, ``compile_caches``  small helpers
* ``references``     objects in the user's files, such as ``"my_reward.py:digits"``
* ``plugins``        the protocols of environments and verifiers, and how all plug-ins are loaded
* ``config``         the run configuration: one strict section per table
* ``console``        the console of a run: progress, warnings, result
* ``data``           rows of any data set, and the well-known ones
* ``memory``         what processes hold, predicted
* ``observability``  logs, metrics, events, report
* ``trackers``       curves, samples and results for TensorBoard, W&B, MLflow, trackio
* ``rpc``            gRPC servers, channels, errors, TLS, codec
* ``store``          groups received, queued, consumed, dropped
* ``sandbox``        runs untrusted Python
* ``algorithms``, ``batching``  losses, and groups as tensors
* ``models``         causal language models whose forward pass ends in scores
* ``tokens``         chat templates, tokenizers, token texts
* ``weight_sync``    weights from the learner to rollout workers
* ``engines``        inference engines
* ``actors``         hub, environment, verifier, teacher, rollout, learner
* ``launch``         starts, restarts and stops the processes of a run
* ``library``        ``rlserve.train`` and ``rlserve.Run``: a run from Python
* ``bench``          benchmarks
* ``cli``            the command ``rlserve``

``rlserve.environments``, ``rlserve.verifiers`` and ``rlserve.pretrain`` are the folders of that name at the top of the
repository; ``v1`` is generated from ``proto/``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlserve.config.run import RunConfig
    from rlserve.library.run import Run
    from rlserve.library.train import train

__version__ = "0.1.0"
__all__ = ["Run", "RunConfig", "__version__", "train"]

_OFFERED = {"RunConfig": "rlserve.config.run", "Run": "rlserve.library.run", "train": "rlserve.library.train"}


def __getattr__(name: str) -> Any:
    # When first used: `import rlserve` alone, which every actor does, should load nothing.
    if name in _OFFERED:
        import importlib

        return getattr(importlib.import_module(_OFFERED[name]), name)
    raise AttributeError(f"module 'rlserve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
