"""Tasksets of the ``verifiers`` library, served by rlserve from a virtual environment of their own."""
