"""Inference engines of rollout workers and teachers.

* ``base``     what an engine is: the Protocol ``RolloutEngine``, and the records of its calls
* ``factory``  the engines by name; ``rollout.engine`` chooses one
* ``vllm/``    vLLM: AsyncLLM in this process, EngineCore in another, weights swapped while it generates

To add an engine: write ``engines/<name>/`` with a class that satisfies ``RolloutEngine``, and add one line to
``factory.ENGINES``. The contract test then runs for it too. ``docs/engines.md`` goes through it step by step.
"""
