"""The launcher of a Ray cluster: the same processes, each under a small Ray actor on its node.

* ``launcher``  the launcher; imports Ray only when it is used
* ``needs``     cores and GPUs of each process as Ray's resources; pure
* ``cluster``   finds or starts the cluster, and reserves placement groups in it
* ``keeper``    the Ray actor: starts one process on its node, tells how it ended
* ``process``   a process under its keeper, as the supervisor sees it
"""
