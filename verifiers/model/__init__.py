"""Verifiers that call a model over HTTP.

* ``judge``   JudgeVerifier: a language model scores by criteria
* ``reward``  RewardModelVerifier: the scalar of a reward model
* ``remote``  the connection and the options that both have in common
* ``http``    Endpoint: JSON over HTTP with deadline and retries

To add one: a subclass of ``remote.RemoteModelVerifier`` with ``name``, ``async def verify``, and an entry
point.
"""
