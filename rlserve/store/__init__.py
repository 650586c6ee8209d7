"""Groups of a run between their arrival and their training: each in exactly one place, across crashes.

* ``base``            what every store promises (``Store``), and how one is found and opened (``StoreBackend``)
* ``registry``        from ``[store] type`` to a backend
* ``binding``         ties a store to its run and to the run's checkpoints
* ``sqlite``          the default: one SQLite file
* ``sqlite_backend``  that file in a run directory
* ``copy_file``       copies of any store, as such a file
* ``redis_store``     the store in a Redis server
* ``redis_scripts``   its keys, and the Lua scripts that change them
* ``redis_link``      its connection, and what errors mean
* ``redis_copy``      puts a copy back into Redis
* ``redis_settings``  what a server must be set to
* ``redis_backend``   the store of a run in a server
* ``patient``         waits for a store whose server is away

To add one: a module with a ``Store`` and a ``StoreBackend``, a line in ``registry.BACKENDS`` (the test
``test_store_backends.py`` takes all of them), an entry in ``IMPLEMENTATIONS`` of
``tests/contract/test_store_contract.py`` and a ``StoreMachine`` in ``test_store_stateful.py``. See docs/extending.md.
"""
