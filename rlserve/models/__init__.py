"""Causal language models of transformers as the learner, the reference and teachers run them.

* ``scored_model``  a model whose forward pass ends in scores of tokens and not in logits
"""
