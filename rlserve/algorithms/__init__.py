"""Algorithms: pure functions from a batch of tensors to a loss and metrics. See docs/algorithms.md for every formula.

* ``base``      what an algorithm is to the pipeline: why_drop, prepare, loss
* ``batch``     the tensors that go in and come out, with their shapes
* ``registry``  from a configuration section to its algorithm, built in or a plug-in

* ``policy_gradient``  base of grpo, cispo, gspo and reinforce: ratios, corrections, terms beside the policy's own
* ``grpo``, ``cispo``, ``gspo``, ``reinforce``  one token loss each
* ``pairs``     base of dpo and orpo: which completions become chosen and rejected, sums over a pair
* ``dpo``, ``orpo``  one pair loss each
* ``kto``       single completions, each good or bad
* ``distill``   teachers: a policy gradient on sampled tokens, or a divergence on the teacher's top k
* ``mixed``     several objectives in one batch

* ``rewards``       shaping by length, and which trajectory is trained with which advantage
* ``advantages``    a reward against those of the same task
* ``ratios``        importance ratios and the corrections made of them
* ``regularizers``  divergence from a reference, entropy, log-partition
* ``divergences``   between two distributions, over a vocabulary or over aligned spans
* ``head``          how logits come of hidden states, and what is asked of a token
* ``token_scores``  token log-probabilities, entropy and more by the fused head, without whole logits
* ``head_gradient`` its gradient
* ``logprobs``      from a micro-batch to that query, and from scores to the outputs of the policy
* ``masked``        masked sums, averaging, and the denominators of the whole optimizer batch
* ``metrics``       metrics that merge over micro-batches and ranks

A teacher with another tokenizer is aligned in ``rlserve.tokens``.

To add one: a file with the formula and a ``token_loss`` (or ``pair_loss``, or a whole ``base.Algorithm``), its section
under ``config/algorithms/``, an entry point in pyproject.toml, a row in docs/algorithms.md and a case in
``CONFIGS`` of ``tests/algorithms/test_documented.py``; the section of class ``X`` is called ``XConfig``. As a plug-in:
the file and the entry point of your own package, nothing here changes.
"""
