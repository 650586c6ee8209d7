"""The memory plan of a run: what each process will hold, whether it fits, and the key to change where it does not.

* ``shapes``  the shapes of the models that a configuration names
* ``plan``    bytes of every process on a machine; pure
* ``fit``     what does not fit, and the change that makes it fit; pure
* ``check``   the plan of this machine: findings before a start, and a table

The formulas are in ``rlserve.memory``. Nothing here imports torch.
"""
