"""Finished groups, from a worker's stream to the queue of training: each exactly once, or accounted for.

* ``stream_service``    RolloutStreamService: leases and acks down, groups up
* ``worker_stream``     one worker's stream: frames to send, the group that it is sending
* ``frames``            checks of frames
* ``byte_budget``       back-pressure: a semaphore of bytes
* ``offers``            offers the groups of all streams to the inbox in batches
* ``inbox``             owns leases and groups, applies decisions; the only way in
* ``inbox_thread``      calls the inbox in one thread; grants and expires leases
* ``monitor``           the inbox's lock, with waits and wakes
* ``admission``         the decision on a finished group, a pure function
* ``checks``            its checks against nonce, lease and run
* ``group_queue``       the training thread's side: groups queued, taken, trained on or dropped
* ``evaluation_round``  the groups of an evaluation, received or abandoned
* ``troubles``          what keeps groups from training, by cause
* ``environments``      keeps the mixture to the environments that are registered at the hub
* ``unserved``          warns of environments and verifiers that no server has

To add a reason to reject a group: a check in ``checks`` that raises InvalidRequest with a reason, called by
``admission``; the sender gets the message. A reason to drop one: a word in the algorithm's ``why_drop``.
"""
