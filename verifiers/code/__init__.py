"""The verifier ``code``: runs programs in the sandbox.

* ``verifier``  CodeVerifier: payload and completion to a verdict
* ``payload``   the checked payload of a task
* ``extract``   finds the program in a completion
* ``fences``    fenced code blocks of a text

To add a kind of task: its tests in ``payload``, its runner in ``rlserve.sandbox``, its case in ``verifier``.
"""
