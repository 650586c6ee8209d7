"""The conformance suite: checks over the wire that an environment keeps its promises.

* ``site``    the environment under test: its server, its spec, its verifier
* ``checks``  one promise per function, listed in ``CHECKS``
* ``episode_checks``  the same for promises of episodes
* ``suite``   runs all checks and collects the findings

To add a check: a function in ``checks`` whose docstring is the promise and which returns the fault, listed in
``CHECKS`` or ``EPISODE_CHECKS``.
"""
