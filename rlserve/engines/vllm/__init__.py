"""vLLM as an engine: AsyncLLM in the worker process, EngineCore in another, weights swapped while it generates.

* ``cpu``  what vLLM does otherwise on CPU: the size of its KV cache, and the rows it multiplies at once
"""
