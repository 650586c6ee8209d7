"""Verifiers that compare texts, in microseconds.

* ``verifier``  ExactVerifier, RegexVerifier
* ``payload``   their checked payloads
* ``answers``   finds the answer after a marker
"""
