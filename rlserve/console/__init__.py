"""The console of a run, on the command line and in a script: its progress, warnings and result.

* ``progress``  the display: a table by rich in a terminal, plain lines elsewhere
* ``follow``    updates it from the files of a run directory

To show another event: a case in ``follow.show_event``. To show another number: a line in ``progress.SHOWN``.
"""
