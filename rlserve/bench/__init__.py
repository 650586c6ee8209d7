"""Benchmarks, one module per ``rlserve bench NAME`` with ``measure(...) -> numbers``; ratios, both sides in one run.

* ``rollout``    tokens per second against plain vLLM
* ``sync``       pause of generation during a weight swap, against vLLM's own calls
* ``learner``    seconds per optimizer step against a plain PyTorch loop
* ``verifier``   verdicts per second of the sandbox and the math verifier, and the latter against math-verify
* ``soak``       thousands of hostile and honest programs in a row
* ``ingest``     groups per second that one learner accepts
* ``transport``  publishing and fetching weights
* ``pipeline``   training beside generation against taking turns
* ``staleness``  accuracy by lag
* ``load``       the quick start beside busy processes
* ``learn``      all methods on the same task and budget
* ``real_model``  a model of 135 million parameters learns sums asked in chat
* ``peer``       against TRL's GRPOTrainer
* ``journey``    from a reward function to the first step, against TRL's
* ``gpu``        learner, engine, swaps and a whole run on one GPU

* ``verdicts``    pairs of answers, and the two math verifiers on them, for ``verifier``
* ``footprint``   descriptors and memory of process trees
* ``tiny_model``  a small random model on disk

To add one: a module here and its line in ``rlserve.cli.bench.BENCHES``; state what both sides of the ratio are.
"""
