"""Reads normalised text as a shape.

* ``reader``      text to shape: list, relation, union, bracket, formula
* ``shapes``      the kinds of answers
* ``tokens``, ``cursor``, ``parser``  formula to expression tree
* ``matrices``    matrices and their determinants
* ``named_sets``  sets given by name
* ``names``       names of quantities left of an equals sign

To add a kind of answer: a class in ``shapes``, a reader called by ``reader``, its comparison in
``compare.equivalence``.
"""
