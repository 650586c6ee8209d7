"""The verifier ``reasoning_gym``.

* ``verifier``  ReasoningGymVerifier: an answer to the score of its data set
* ``scorers``   the library's scorers, made safe for untrusted answers
"""
