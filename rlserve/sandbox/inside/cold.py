"""Entry point of a box that ``bwrap`` starts, instead of a zygote's fork; reaper and runner are the same."""

import json
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import kernel
import zygote


def main() -> int:
    """Run one box. The arguments are header, settings and descriptors, as JSON."""
    kernel.lift_soft_limits()
    header, settings, descriptors = map(json.loads, sys.argv[1:4])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})
    zygote.find_packages(settings["places"], settings["packages"])
    # Imported before the program limits memory and time; a zygote has many more warm, each of which costs a start here.
    for name in ("random", "unittest"):
        __import__(name)
    return zygote.reap(header, descriptors, settings, bytes.fromhex(settings["seccomp"]), 0)


if __name__ == "__main__":
    os._exit(main())
