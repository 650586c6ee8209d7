"""The verifier ``rubric``.

verifier  RubricVerifier: weighted sum and gates over other verifiers
"""
