r"""The verifier ``math``: a mathematical answer against a gold answer.

From a completion to a verdict:

* ``verifier``     MathVerifier: extract the answer, refuse harmful input, compare, give the reason
* ``payload``      the checked payload of a task
* ``extract``      the one answer of a completion, by fixed rules
* ``announced``, ``boxes``  announcements ("the answer is"), and answers in ``\boxed``
* ``clause``, ``framing``   the value in the clause after an announcement, without the text around it
* ``markup``, ``prose``, ``runs``  removes markup; tells expressions from prose; finds formulas in prose
* ``prefilter``    refuses answers that would be costly or unsafe to read

Text to shapes:

* ``normalize``, ``characters``  one spelling for LaTeX, Unicode, markdown and Python
* ``words``, ``units``, ``unit_table``  words that change a value; units of measure and money
* ``reader``       normalised text to a shape: list, relation, union, bracket, formula
* ``shapes``       the kinds of answers
* ``split``, ``tokens``, ``cursor``, ``parser``, ``tree``  formula to expression tree
* ``numerals``     numerals as exact fractions: the fast path
* ``matrices``, ``named_sets``, ``names``, ``choices``, ``clock``  other notations

Comparison:

* ``equivalence``  the same kind of answer first, then equal in every part
* ``scalars``, ``evaluate``  two formulas, exactly or at several points
* ``sets``, ``linear``, ``relations``, ``lists``, ``quantities``  sets, inequalities, equations, lists, units
* ``slow``         math-verify for integrals, sums and limits, behind guards

To add a notation: its spelling in ``normalize``, or a reader called by ``reader`` that returns a shape. To add a kind
of answer: a class in ``shapes``, its reader, its comparison in ``equivalence``. Both need pairs in
``tests/verifiers/math_pairs.tsv``.
"""
