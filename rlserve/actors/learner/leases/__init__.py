"""Leases: which worker works on which task, without threads, sockets or a clock of their own.

* ``lease_table``   open leases and the workers that may hold them: grant, renew, return, expire, complete
* ``lease_state``   the records of the table, and the choice of a worker
* ``lease_source``  numbered training leases, with a cursor in the store that survives a crash
* ``nonces``        proofs that a lease was granted
* ``mixture``       the task of a lease's number, a pure function
* ``catalogue``     the environments in the mixture, as servers register and go
* ``curriculum``    moves an environment to its next level
* ``settings``      what leases and inbox need to know of their run

To add a way to choose tasks: another mixture for ``LeaseSource.mix``, as ``catalogue`` and ``curriculum`` make.
"""
