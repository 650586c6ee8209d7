"""Data sets: rows of files, folders and Hub names, and the well-known ones that ``rlserve data fetch`` writes.

* ``source``  rows of any data set, each with its place
* ``known``   the well-known data sets
* ``fetch``   writes one of them as files

To add a well-known data set: its ``KnownSet`` in ``known``.
"""
