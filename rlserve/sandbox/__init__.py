"""Runs untrusted Python behind kernel walls, and says how it ended. See docs/sandbox.md.

``inside/``   what runs in the zygote and in the boxes; standard library only, started by path
``limits``    what one program may use
``seccomp``   the system calls that a box is refused
``zygote``    the service's end of a zygote: start it, ask for boxes, replace it
``box``       one running program: its output and its end
``watch``     reads what boxes write and ends those that go over a limit
``printed``, ``equality``  what a printed or returned answer must be
``interpreter``  which Python runs in the boxes, with which packages
``stdio``     stdin/stdout tests
``function``  assert files: the program in one box, the tests in another
``calls``     function-call tests: arguments in, values out, compared out here
``tiers``     the isolation tiers, and which of them holds on this machine
"""
