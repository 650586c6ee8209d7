"""Tasksets of the ``verifiers`` library, served by rlserve from a virtual environment of their own.

* ``environment``  PrimeEnvironment: a taskset as an environment
* ``verifier``     PrimeVerifier: a task's own rewards as a verdict
* ``episode``      PrimeEpisode: a task with tools
* ``rewards``      a task's own rewards of a conversation
* ``tasksets``     loads a taskset once per process
"""
