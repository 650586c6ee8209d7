"""Decides whether an answer equals the gold answer.

* ``equivalence``  the same kind of answer first, then equal in every part
* ``scalars``, ``evaluate``  two formulas, exactly or at several points
* ``sets``, ``linear``       sets of real numbers, and inequalities as such sets
* ``relations``    equations and inequalities
* ``lists``        items matched in order or in any order
* ``quantities``   values with units
* ``choices``      multiple-choice answers
* ``slow``         math-verify for integrals, sums and limits, behind guards

To add a comparison: a function of two shapes, called by ``equivalence`` for their kind.
"""
