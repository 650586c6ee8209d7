"""The verifier ``math``: a mathematical answer against a gold answer.

* ``verifier``   MathVerifier: extract the answer, refuse harmful input, compare, give the reason
* ``payload``    the checked payload of a task
* ``extract``    the one answer of a completion, by fixed rules
* ``prefilter``  refuses answers that would be costly or unsafe to read
* ``notation``   one spelling for the many that LaTeX, Unicode, markdown and Python have
* ``read``       normalised text to a shape
* ``tree``       the expression tree of a formula
* ``compare``    whether two shapes are equal

To add a notation: its spelling in ``notation.normalize``, or a reader called by ``read.reader`` that returns a shape.
To add a kind of answer: a class in ``read.shapes``, its reader, its comparison in ``compare.equivalence``. Both need
pairs in ``tests/verifiers/math_pairs.tsv``.
"""
