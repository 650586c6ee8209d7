"""The verifier ``countdown``.

* ``verifier``    CountdownVerifier: numbers and target to a verdict
* ``expression``  exact arithmetic expressions, parsed without ``eval``
"""
