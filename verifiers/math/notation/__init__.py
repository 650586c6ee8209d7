"""One spelling for the many that LaTeX, Unicode, markdown and Python have for the same thing.

* ``normalize``   the rewriting, in its order
* ``characters``  Unicode to TeX
* ``framing``     removes text around a value that is not part of it
* ``numerals``    numerals as exact fractions: the fast path
* ``words``       words that change a value
* ``units``, ``unit_table``  units of measure and money
* ``clock``       times of day
* ``split``       splits text outside of its brackets

To add a notation: its spelling in ``normalize``; a character in ``characters``; a unit in ``unit_table``.
"""
