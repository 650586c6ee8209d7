"""A copy of a run where it outlives this machine: at any fsspec URL (``file://``, ``s3://``, ``gs://``, ...).

* ``place``    one folder at a URL: put, get, list, remove
* ``uploads``  copies checkpoints, start models and records there while training goes on
* ``fetch``    brings a run back to a machine that has nothing of it
"""
