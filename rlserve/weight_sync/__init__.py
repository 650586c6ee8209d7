"""Weights on their way from an optimizer step to the rollout engines.

* ``manifest``       names, shapes, dtypes and digests of a version's tensors; checks bytes against them
* ``checksum``       of a tensor, computed on its device
* ``delta``          lossless difference between two versions
* ``host``           identity of this machine, and its shared memory
* ``own_directory``  a directory that one living process owns and the next one cleans up
* ``mapped_file``    a flat file, written and read in place
* ``device_memory``  memory of a GPU that two processes share, and of the host that it may copy by itself
* ``version_memory`` learner: the newest version in such memory
* ``weight_files``   flat files of one process: in shared memory, or in the run directory when that is full
* ``staging``        a worker's own copies of the versions that it received
* ``publication``    learner: one version on its way into its file
* ``background``     learner: publishes while the next step runs
* ``publisher``      learner: keeps the last versions, and the differences between them
* ``service``        learner: PolicyStreamService, which announces, sends and confirms versions
* ``subscriber``     worker: follows announcements, fetches versions, confirms what it serves
* ``carriers``       the ways in which bytes travel, one file each; how to add one: ``carriers/__init__.py``
"""
