"""Commands about a model: a run's checkpoint, or any other.

* ``evaluate``  ``rlserve eval``: held-out accuracy
* ``generate``  graded samples
* ``export``    a checkpoint for other programs
* ``chat``      a conversation

To add a command: a module here and its line in ``rlserve.cli.main.COMMANDS``.
"""
