"""The learner: takes finished groups in, trains on them, publishes weights. One process a rank; rank 0 does all else.

* ``main``           a process of any rank
* ``rank0``          wires the parts below, serves and trains
* ``loop``           the story of a step: groups, batch, loss, step, publish, checkpoint
* ``live_settings``  what ``rlserve set`` changes while the run goes on
* ``loop_state``     what a checkpoint keeps of the loop
* ``waiting``        the loop's waits, which end by progress or with the reason why nothing comes
* ``next_batch``     makes the tensors of the next batch while the step runs
* ``poison``         drops the groups that make a loss not finite
* ``step_metrics``   the metrics of a step, a pure function
* ``start_point``    start model or checkpoint, and the store that belongs to it
* ``store_copy``     replaces a run's store by the copy in its newest checkpoint
* ``teacher_check``  checks before the first step that every teacher can answer what the run asks
* ``reporter``       what a run records: events, metrics, summary, its state at the hub
* ``run_state``      sends the state of the run to the hub
* ``run_summary``    the summary of a finished run
* ``joining/``       what hosts that join get: configuration and files, by role
* ``ingest/``        finished groups: from a worker's stream to the queue of training
* ``leases/``        which worker works on which task: tasks, leases, proofs
* ``measure/``       held-out evaluations, the best checkpoint by them, statistics of what was received
* ``train/``         batches to new weights, over one rank or many

To add a number to the record: a provider called by ``reporter``, and its line in ``observability.metrics``.
"""
