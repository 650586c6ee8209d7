"""The learner: takes finished groups in, trains on them, publishes weights.

``main``              a process: wires the parts below, serves, trains
``reporter``          what a run records: events, metrics, summary, its state at the hub
``run_state``         the state of the run at the hub
``run_summary``       the summary of a finished run
``evaluation``        a held-out evaluation: its leases, its score, its samples
``evaluation_round``  the groups of an evaluation, received or abandoned
``measuring``         when an evaluation is made, and by which workers
``teachers``          checks before the first step that every teacher can answer what the run asks

From a worker's stream to the queue (ingest):

``stream_service``    RolloutStreamService: leases and acks down, groups up
``worker_stream``     one worker's stream: frames to send, the group that it is sending
``frames``            checks of frames
``byte_budget``       back-pressure by bytes
``ingest``            offers the groups of all streams to the inbox in batches
``inbox``             owns leases and groups, applies decisions
``monitor``           the inbox's lock, who waits for a change and who is woken by one
``settings``          what leases and inbox need to know of their run
``intake``            the decision on a finished group, a pure function
``border``            its checks against nonce, lease and run
``group_queue``       the training thread's side: groups queued, taken, trained on or dropped
``leases``            lease table: which worker works on what
``lease_state``       records of the lease table
``issuer``            lease source: numbered leases, with a cursor in the store
``nonces``            proofs that a lease was granted
``mixture``           the task of a lease's number
``catalogue``         environments in the mixture, as servers come and go
``environments``      follows the hub's environments
``curriculum``        moves an environment to its next level
``unserved``          warns of environments and verifiers without a server
``received``          statistics of arrivals
``troubles``          what keeps groups from training, by cause

From the queue to new weights (train):

``loop``              the story of a step
``loop_state``        what a checkpoint keeps of it
``waiting``           its waits
``step_metrics``      the metrics of a step
``start_point``       start model or checkpoint, and the store that belongs to it
``store_copy``        replaces the store by the copy in a checkpoint
``schedule``          learning rate, weight syncs
``poison``            drops the groups that make a loss not finite
``trainer``           trains on all ranks, publishes, saves
``ranks``             the part of one rank
``links``             what ranks exchange
``tensor_wire``       batches between ranks
``liveness``          which rank failed
``engine``            forward, backward and update on one rank
``deepspeed_setup``   its configuration
``model``             scores of the policy
``reference``         the reference model
``weights``           gathers the weights
``policy_service``    serves them to workers
``checkpoint``        saves and restores the training state; ``actors.checkpoints`` finds it
``model_files``       a model directory that transformers and vLLM load
``optimizer_state``   the optimizer's tensors by name

To add a reason to drop a group: a word in ``why_drop`` of the algorithm. A reason to reject one: a check in ``border``
that raises InvalidRequest with a reason, called by ``intake``; the sender gets the message. A number in the record: a
provider called by ``reporter``, and its line in ``observability.metrics``.
"""
