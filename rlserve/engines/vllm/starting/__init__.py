"""The start of vLLM: the slowest part of a rollout worker's start.

* ``start``     starts vLLM, early parts first
* ``preload``   what EngineCore imports before there is a model to serve
* ``progress``  waits for the start by its progress
* ``titles``    what a start does, in the titles of vLLM's processes
"""
