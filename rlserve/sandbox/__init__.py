"""Runs untrusted Python behind kernel walls and reports how it ended. See docs/sandbox.md.

* ``sandbox``      Sandbox: chooses a proven tier, keeps a warm zygote, replaces it in time
* ``walls``        the isolation tiers, and the proof that one stops attacks on this machine
* ``zygote``       the service's end of a zygote: starts it, opens boxes
* ``box``          one running program: its output and its end
* ``watch``        reads the output of boxes, ends those that exceed a limit
* ``limits``       time, memory, processes and files of one program
* ``interpreter``  the Python of the boxes, with its packages
* ``stdio``        tests by standard input and output
* ``function``     tests as assert files: the program in one box, the tests in another
* ``calls``        tests as function calls: arguments in, values out, compared outside
* ``printed``      whether printed output equals the expected one
* ``equality``     whether a returned value equals the expected one
* ``judgement``    the result: outcome, tests passed, reason, output
* ``inside``       the code that runs in zygotes and boxes: standard library only, started by path

To add a kind of test: a module like ``stdio`` with ``judge_x(zygote, source, tests, limits) -> Judgement``, a method of
``Sandbox``, and, if the program runs in a new way, a role in ``inside/zygote.ROLES``.
"""
