"""Preflight: checks everything that a configuration names before any process starts, without torch.

* ``check``       all checks; runs the probe and kills it when it hangs
* ``finding``     one fault or warning
* ``machine``     ports, directory, cores, GPUs, and the registered engines, launcher and store
* ``checkpoint``  a checkpoint directory, from its files alone
* ``adapters``    ``[learner.lora]`` against a checkpoint's files
* ``probe``       the checks that run plug-ins, in a process of their own
* ``models``      models as transformers would load them, and prompts in their tokens
* ``tasks``       environments and corpora, and some tasks of each split
* ``verdicts``    the verifiers that tasks name

To add a check: a function that yields ``Finding`` in the module it fits, and a call in ``check_machine`` (without
plug-ins) or in ``probe.main`` (with them).
"""
