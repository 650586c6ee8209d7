"""What all launchers share: the processes of a run are watched, restarted and stopped by the same rules.

* ``supervisor``      starts a plan, watches it to its end, stops it; a launcher says only how one process is started
* ``actors``          restarts one process that is not of the learner
* ``learner``         the learner's ranks, which live and die together
* ``deaths``          the death of a process as an event, and as the error that ends a run
* ``started``         what a launcher's own kind of process can do
* ``restart_policy``  when to restart and when to give up; pure
* ``silence``         names processes that live and do not report to the hub
"""
