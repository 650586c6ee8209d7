"""Inference engines of rollout workers; a teacher may start one too.

* ``base``     what an engine is: the Protocol ``RolloutEngine``, and the records of its calls
* ``factory``  the engines by name; ``rollout.engine`` chooses one
* ``tool_calls``  the policy's tool calls, read from its text by vLLM's parsers
* ``openai_app``  vLLM's OpenAI-compatible server around an engine
* ``vllm/``    vLLM: AsyncLLM in this process, EngineCore in another, weights swapped while it generates

To add an engine: write ``engines/<name>/`` with a class that satisfies ``RolloutEngine``, and add one line to
``factory.ENGINES``. The contract test then runs for it too. Its library: an extra and a mypy override in
pyproject.toml, ``HEAVY`` in tests/test_layers.py, a check in ``cli/doctor``. Teachers choose from a table of their own,
``rlserve.actors.teacher.scoring.SCORING_ENGINES``. ``docs/engines.md`` goes through it step by step.
"""
