"""The walls between a program and the machine, and what may cross them.

* ``tiers``       the isolation tiers, strongest first, and how each starts its boxes
* ``proof``       programs that try to break out; a tier is used only after it stopped all of them on this machine
* ``bubblewrap``  the tier that starts each box with ``bwrap``
* ``seccomp``     the system calls that a box may not make
* ``plain``       Python values as JSON and back: the only values that leave a box

To add a tier: a member of ``tiers.Tier`` at its place in the order of strength, and what it sets in ``settings_of``;
``proof`` decides whether it is used.
"""
