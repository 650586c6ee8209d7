"""gRPC as every actor uses it: servers, channels, errors, TLS, and the codec between messages and records.

* ``server``       ``serving``: bind, report the port, health, reflection, stop with a grace period
* ``channel``      ``open_channel`` and ``call``: every call has a deadline and raises an RlserveError
* ``status``       the table between errors and gRPC status codes, both ways
* ``intercept``    turns exceptions of handlers into statuses, checks the bounds of every request
* ``options``      limits and timings of servers and channels
* ``tls``          mutual TLS from files, and the rule that no server listens beyond this machine without it
* ``token``        the token of a run, which every call carries
* ``version``      the version of rlserve and its protocol, which two hosts must share
* ``thread``       an event loop in a thread, for code that blocks
* ``descriptors``  raises the limit of open files, since each connection takes one
* ``codec``        messages to records and back, each field checked once

To add a service: declare it in ``proto/``, run ``make proto``, write a servicer in the actor's ``service`` and pass its
``add_*`` function to ``serving``. To add an error class: ``rlserve/errors.py`` and the table in ``status``.
"""
