"""Weight versions: their manifest, their files, their publication by the learner and their arrival at workers.

The map is in ``rlserve/weight_sync/__init__.py``.
"""
