"""One log format for every actor: time, actor, level, message. Lines are events for people."""

import logging
import sys


def set_up(actor: str, *, level: int = logging.INFO) -> None:
    """Log to standard error; third-party chatter below WARNING is left out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {actor} %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("rlserve").setLevel(level)
