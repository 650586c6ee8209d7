"""The verifier ``format``.

verifier  FormatVerifier: required tags, each once, in order
"""
