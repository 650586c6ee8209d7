"""``rlserve bench verifier``: programs and answers judged per second, and the math verifier against math-verify.

* ``verifier``        the sandbox beside bare processes, and the comparison of the two math verifiers
* ``differential``    both math verifiers on the same pairs
* ``answer_sources``  the pairs of answers
* ``notations``       other notations of an answer, and near misses
* ``judge_process``   runs one of the two in a killable process

To add pairs: a source in ``answer_sources`` whose construction determines the right verdict.
"""
