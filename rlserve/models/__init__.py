"""Causal language models of transformers as the learner, the reference and teachers run them.

* ``scored_model``  a model whose forward pass ends in scores of tokens and not in logits
* ``top_scores``    the scores that a teacher gives tokens
* ``attention``     attention over packed rows without a mask
* ``layers``        decoder layers compiled, or with the kernels of a library
* ``adapters``      low-rank adapters in a model (LoRA): put in, trained, switched off
* ``adapter_files`` an adapter's directory, and the model that it belongs to
* ``merge``         an adapter merged into the weights of its base
* ``experts``       how evenly a mixture of experts is used
* ``throughput``    FLOPs of a step, peaks of cards, memory
"""
