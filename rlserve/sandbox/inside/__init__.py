"""The code that runs inside of zygotes and boxes. Standard library only; started by path, so imports are bare names.

* ``zygote``       a warm interpreter that forks one box per request
* ``cold``         starts a box without a zygote, for the tier bubblewrap
* ``room``         the namespaces and the file tree of the boxes
* ``kernel``       the kernel calls behind the walls, by ctypes
* ``program``      role "program": a whole program, run as ``__main__``
* ``candidate``    role "candidate": the program as a module that answers the calls of its tests
* ``tester``       role "tester": the tests, run against the program's proxies
* ``peer``         one end of the conversation between a candidate and its tester
* ``counterpart``  the tester's end
* ``proxy``        stands for an object of the program in the tests
* ``objects``      what a proxy may reveal of its object
* ``values``       values as plain data
* ``graph``        instances that cross field by field: linked lists, trees
* ``errors``       exceptions as plain data
* ``frames``       length-prefixed JSON between two boxes

To add a role: a module with ``main(job, links) -> exit code``, named in ``zygote.ROLES``.
"""
