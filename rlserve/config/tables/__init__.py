"""One module a table of the run configuration; ``rlserve.config.run`` puts them together.

* ``model``        ``[model]``: the policy that is trained
* ``pretrain``     ``[pretrain]`` and ``[sft]``: how the start checkpoint is made
* ``environment``  ``[[environments]]``: the mixture of tasks, and ``reward``
* ``episodes``     ``[episodes]``: limits of multi-turn episodes
* ``hub``          ``[hub]``: the registry of actors
* ``verifier``     ``[verifier]``: verifier servers and their judge processes
* ``teacher``      ``[[teachers]]``: models that give token log-probabilities
* ``reference``    ``[reference]``: the model from which divergence is measured
* ``rollout``      ``[rollout]``: workers, engines, sampling
* ``learner``      ``[learner]``: optimizer, batches, staleness, streams
* ``sync``         ``[sync]``: when workers get new weights
* ``evaluate``     ``[evaluate]``: measurements on held-out tasks, the best checkpoint
* ``output``       ``[checkpoint]`` and ``[[trackers]]``: what a run leaves on disk and elsewhere
* ``store``        ``[store]``: where groups are kept until they are trained on
* ``launch``       ``[launch]``: how processes are started, restarted and stopped

To add a key: a field with its meaning under it, in the table's module; its reader; docs where the table is described.
To add a table: a module here with one ``Section``, and a field of ``RunConfig``.
"""
