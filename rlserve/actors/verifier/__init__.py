"""The verifier server: turns (completion, payload) into verdicts, in processes that may be killed at any moment.

* ``main``            the process: serves until a signal
* ``service``         VerifierService: checks sizes, bounds the queue, streams progress
* ``pool``            VerifierPool: divides requests among judge processes, retries, decides how a lost one ends
* ``processes``       ProcessSet: starts judge processes ahead of need, checks them out, replaces them
* ``process``         one judge process, seen from the server: start, run a job, kill
* ``worker_main``     one judge process, from inside: loads verifiers, limits itself, verifies one at a time
* ``waiting``         AsyncVerifier: many completions at once, for verifiers with ``async def verify``
* ``waiting_worker``  its process, from inside: one event loop
* ``pipe``            the messages between the server and its processes: length-prefixed JSON, never pickle
* ``spec``            VerifierSpec: the optional class attributes of a verifier, as data
* ``bounds``          rejects a reward outside the declared range
* ``client``          VerifierClient; the request, progress stream and checked reply that every caller uses

To add an attribute that a verifier class may declare: a field of ``spec.VerifierSpec`` (with its encode and decode), a
row in ``verifiers/README.md``, and its use in ``pool``. To add a verifier, see the package ``rlserve.verifiers``.
"""
