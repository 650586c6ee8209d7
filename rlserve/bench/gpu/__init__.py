"""``rlserve bench gpu``: one prepared command for a machine with one GPU and no network.

Every stage is a process of its own with a time limit; what it measured is kept when it is cut off, and a failing stage
does not stop the next. Without a GPU the same stages run at tiny sizes, which rehearses the plan.

* ``bench``      runs the stages one after another, within the minutes given
* ``child``      runs one stage: ``python -m rlserve.bench.gpu.child NAME``
* ``sizes``      what each stage runs at, on a GPU and in rehearsal
* ``models``     random Qwen3 checkpoints with a tokenizer, so that no weights are needed
* ``rows``       what stages write, one JSON line a measurement
* ``table``      the rows as text
* ``learner``    stage: milliseconds, MFU and memory of a learner step, option by option
* ``engine``     stage: start, tokens per second against plain vLLM, swaps under load
* ``stamps``     part of it: whether each token carries the version that sampled it
* ``engine_large``  the same stage with the large model
* ``whole_run``  stage: a GRPO run with learner and engine on one GPU
* ``words``      its environment

To add a stage: a module with ``measure(sizes, out) -> Iterator[Row]`` and its line in ``bench.STAGES``.
"""

from rlserve.bench.gpu.bench import measure

__all__ = ["measure"]
