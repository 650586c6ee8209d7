"""vLLM as an engine: AsyncLLM in the worker process, EngineCore in another, weights swapped while it generates.

In the worker process:

* ``engine``        VllmEngine: token ids in and out, swaps weights
* ``starting/``     starts vLLM, and waits by progress
* ``options``       arguments of the engine, parameters of a request, environment variables
* ``outputs``       completions as ``Sample``, each token with the version that sampled it
* ``link``          calls to EngineCore with deadlines; all fail as soon as it dies
* ``watch``         distinguishes a hanging engine from a slow one
* ``parent_watch``  ends the engine's processes with the worker that owns them

In EngineCore:

* ``plugin``          registers the weight-transfer engine and the calls that the worker makes
* ``staged_weights``  the weight-transfer engine: stage beside generation, swap in the pause, then digest
* ``in_place_swap``   swaps whole models by reference on CPU
* ``direct_copy``     swaps whole models by copies within the device on accelerators
* ``layout``          where each checkpoint tensor lives in a vLLM model
* ``readback``        weights as published: read, made whole of adapters, read back from the model
* ``cpu``             what vLLM does otherwise on CPU: the size of its KV cache, and the rows it multiplies at once

To support a model that keeps its weights in another way: its tensors in ``layout``; until then vLLM's reload is used.
"""
