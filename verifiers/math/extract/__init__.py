r"""Extracts the one answer of a completion that is judged.

* ``extract``    the rules and their order
* ``announced``  announcements of an answer: "the answer is", a heading, ``####``
* ``clause``     the value in the clause after an announcement
* ``boxes``      answers in ``\boxed``
* ``markup``     removes markup that only changes how a text looks
* ``prose``      distinguishes expressions from prose
* ``runs``       finds formulas and numbers in prose

To add a way to mark an answer: a finder beside ``announced.last_marker``, called by ``extract`` at
its place in the order.
"""
