"""The conformance suite: what an environment promises, asked of it over the wire.

``site``      where it is: a server, its verifier, and what it says of itself
``checks``    one promise each
``suite``     runs them all and collects what they found
"""
