"""Tasksets of the ``verifiers`` library, served by rlserve from a virtual environment of their own.

* ``environment``  PrimeEnvironment: a taskset as an environment
* ``verifier``     PrimeVerifier: a task's own rewards as a verdict
* ``tasksets``     loads a taskset once per process
"""
