"""The differential part of ``rlserve bench verifier``: the math verifier against math-verify.

* ``differential``    both math verifiers on the same pairs
* ``answer_sources``  the pairs of answers
* ``notations``       other notations of an answer, and near misses
* ``judge_process``   runs one of the two in a killable process

To add pairs: a source in ``answer_sources`` whose construction determines the right verdict.
"""
