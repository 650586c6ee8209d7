"""``rlserve``: parse, then import. ``--help`` is instant because a command's module is imported when it runs."""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rlserve import __version__
from rlserve.errors import RlserveError
from rlserve.idle_threads import sleep_when_idle
from rlserve.observability.printable import LINES, printable

INTERRUPTED = 130
MAX_ERROR = 100_000
"""Characters of an error that are shown; it may hold the end of a log."""
PIPE_CLOSED = 141
"""As a shell reports a process that SIGPIPE ended."""


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand and the module that has its ``add_arguments`` and ``run``."""

    name: str
    module: str
    help: str


COMMANDS = (
    Command("run", "rlserve.cli.run", "a whole run on this machine, from a configuration"),
    Command(
        "serve", "rlserve.cli.serve", "one actor, for clusters: hub, rollout, verifier, environment, teacher, learner"
    ),
    Command("status", "rlserve.cli.status", "how a run stands and who is alive"),
    Command("rollout", "rlserve.cli.rollout", "rollout workers of a run: status, pause, resume, sample"),
    Command("report", "rlserve.cli.report", "the page of a run, made anew from its directory"),
    Command("env", "rlserve.cli.env", "environments: register, list, sample, check, new, decontaminate"),
    Command("eval", "rlserve.cli.evaluate", "accuracy of a checkpoint on held-out tasks"),
    Command("generate", "rlserve.cli.generate", "graded samples of a model, as a file"),
    Command("pairs", "rlserve.cli.pairs", "preference pairs or examples from files of samples"),
    Command("pretrain", "rlserve.cli.pretrain", "a small model from nothing"),
    Command("sft", "rlserve.cli.sft", "supervised fine-tuning on prompt and completion pairs"),
    Command("verify", "rlserve.cli.verify", "score a file of cases with a verifier"),
    Command("verifier", "rlserve.cli.verifier", "verifiers: list those installed here, write a new one"),
    Command("bench", "rlserve.cli.bench", "speed against plain vLLM and PyTorch, as ratios in one run"),
    Command("doctor", "rlserve.cli.doctor", "what this machine has and lacks, and the fix for each"),
)


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser; only the chosen command's module is imported for its arguments."""
    parser = argparse.ArgumentParser(
        prog="rlserve",
        description="A reinforcement-learning-centric post-training service.",
        epilog="Start with: rlserve doctor; rlserve run configs/quickstart.toml",
    )
    parser.add_argument("--version", action="version", version=f"rlserve {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.help)
        if command.name == chosen:
            importlib.import_module(command.module).add_arguments(subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors for people go to standard error, without a traceback."""
    sleep_when_idle()
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((a for a in given if not a.startswith("-")), None)
    parser = build_parser(chosen)
    parsed = parser.parse_args(given)
    if parsed.command is None:
        parser.print_help()
        return 0
    try:
        status = _run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads us (`| head`) has had enough. What is buffered has no reader, also not at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return status


def _run(parsed: argparse.Namespace) -> int:
    module = next(c.module for c in COMMANDS if c.name == parsed.command)
    try:
        return int(importlib.import_module(module).run(parsed))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except RlserveError as error:
        print(f"rlserve {parsed.command}: {printable(error, max_length=MAX_ERROR, keep=LINES)}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename!r} is on a disk that is" if error.filename else "a disk is"
        print(f"rlserve {parsed.command}: {where} full; make room and give the same command again", file=sys.stderr)
        return 1


if __name__ == "__mp_main__":
    # multiprocessing spawned this process from an actor (vLLM's engine core); it must not outlive that actor,
    # and its own plug-ins load only after a handshake for which it would wait minutes.
    importlib.import_module("rlserve.actors.rollout.deathwatch").follow_owner()

if __name__ == "__main__":
    sys.exit(main())
