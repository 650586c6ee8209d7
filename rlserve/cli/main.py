"""``rlserve``: parses, then imports. ``--help`` is instant because only the chosen command's module is imported."""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from rlserve import __version__
from rlserve.cli.commands import Command, declare, run_chosen
from rlserve.errors import RlserveError
from rlserve.idle_threads import sleep_when_idle
from rlserve.observability.printable import LINES, printable

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EVERY = "*"
"""Stands for all commands where one is chosen."""
MAX_ERROR = 100_000
"""Characters of an error that are shown; it may contain the end of a log."""
PIPE_CLOSED = 141
"""Exit code that a shell reports for a process killed by SIGPIPE."""

COMMANDS = (
    Command("run", "rlserve.cli.runs.run", "a whole run on this machine, from a configuration"),
    Command("plan", "rlserve.cli.runs.plan", "what memory a run takes, process by process, and whether it fits"),
    Command(
        "serve",
        "rlserve.cli.runs.serve",
        "one actor on this host: hub, rollout, verifier, environment, teacher, learner; or an OpenAI endpoint",
    ),
    Command("join", "rlserve.cli.runs.join", "make this host a rollout worker, verifier or teacher of a run"),
    Command("render", "rlserve.cli.runs.render", "manifests of a run: Kubernetes, KubeRay, Slurm, compose"),
    Command("status", "rlserve.cli.runs.status", "state of a run and its live actors"),
    Command("set", "rlserve.cli.runs.set", "change a setting of a run that goes on"),
    Command("scale", "rlserve.cli.runs.scale", "more or fewer processes of a run that goes on"),
    Command("rollout", "rlserve.cli.runs.rollout", "rollout workers of a run: status, pause, resume, sample"),
    Command("report", "rlserve.cli.runs.report", "rebuild a run's report page from its directory"),
    Command("env", "rlserve.cli.env", "environments: register, list, sample, check, new, decontaminate"),
    Command("eval", "rlserve.cli.models.evaluate", "accuracy of a checkpoint on held-out tasks"),
    Command("chat", "rlserve.cli.models.chat", "talk to a checkpoint"),
    Command("generate", "rlserve.cli.models.generate", "graded samples of a model, as a file"),
    Command("export", "rlserve.cli.models.export", "a checkpoint for other programs, adapters merged or alone"),
    Command("pairs", "rlserve.cli.pairs", "preference pairs or examples from files of samples"),
    Command("pretrain", "rlserve.cli.pretrain", "pretrain a small model from scratch"),
    Command("sft", "rlserve.cli.sft", "supervised fine-tuning on prompt and completion pairs"),
    Command("verify", "rlserve.cli.verify", "verdicts of a verifier on a file of cases"),
    Command("verifier", "rlserve.cli.verifier", "verifiers: list those installed here, write a new one"),
    Command("data", "rlserve.cli.data", "data sets: fetch a well-known one, show what is in any"),
    Command("config", "rlserve.cli.config", "shipped configurations, every key with its meaning, a schema for editors"),
    Command("bench", "rlserve.cli.bench", "speed against plain vLLM and PyTorch, as ratios in one run"),
    Command("completion", "rlserve.cli.completion", "script with which your shell completes rlserve's commands"),
    Command("doctor", "rlserve.cli.doctor", "what this machine has and lacks, and the fix for each"),
)


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser; only the chosen command's module is imported for its arguments, or EVERY one."""
    parser = argparse.ArgumentParser(
        prog="rlserve",
        description="A reinforcement-learning-centric post-training service.",
        epilog="Start with: rlserve doctor; rlserve run quickstart",
    )
    parser.add_argument("--version", action="version", version=f"rlserve {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        # Importing every command would load gRPC and pydantic for a --help.
        declare(subparsers, command, whole=chosen in (command.name, EVERY))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; expected errors go to standard error without a traceback."""
    # Before any command's module: OpenMP reads the variables once, when torch is imported.
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
        # Inside the try: output that is still buffered meets a closed pipe only now, else at the interpreter's end.
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) closed the pipe. Discard buffered output, which the interpreter would flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return status


def _run(parsed: argparse.Namespace) -> int:
    try:
        return run_chosen(COMMANDS, parsed.command, parsed)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except RlserveError as error:
        print(f"rlserve {parsed.command}: {printable(error, max_length=MAX_ERROR, keep=LINES)}", file=sys.stderr)
        return 1
    except OSError as error:
        # Any other OSError is a fault of the program, and needs its traceback.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename!r} is on a disk that is" if error.filename else "a disk is"
        print(f"rlserve {parsed.command}: {where} full; make room and run the same command again", file=sys.stderr)
        return 1


if __name__ == "__mp_main__":
    # multiprocessing spawned this process from an actor (vLLM's engine core). It must not outlive that actor, and the
    # plug-in that sees to that is loaded too late: after a handshake for which the process would wait for minutes.
    importlib.import_module("rlserve.engines.vllm.parent_watch").follow_owner()

if __name__ == "__main__":
    sys.exit(main())
