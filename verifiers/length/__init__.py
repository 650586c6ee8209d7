"""The verifier ``length``.

verifier  LengthVerifier: soft overlong penalty, or distance to a target length
"""
