"""Teacher servers: token log-probabilities of one frozen model.

* ``main``         the process: load the model, serve it, register with the hub
* ``service``      the gRPC service: checks requests, answers a stream of them
* ``texts``        text queries in the teacher's own tokens
* ``batcher``      one queue for all callers, cut into batches; scores cached by content
* ``scoring``      query, scores, the contract ``ScoringEngine``, and the table of engines
* ``forward``      engine: a batched forward pass of transformers
* ``vllm_engine``  engine: vLLM's prompt_logprobs

To add an engine: a module with a ``start`` function, and one line in ``scoring.SCORING_ENGINES``.
"""
