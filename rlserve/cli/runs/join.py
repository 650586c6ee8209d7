"""``rlserve join HUB``: makes this host a rollout worker, verifier or teacher of a run, with nothing copied to it."""

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from rlserve.observability import logs
from rlserve.rpc.tls import host_of, is_loopback
from rlserve.rpc.token import TOKEN, TOKEN_FILE, checked

logger = logging.getLogger(__name__)

ROLES = ("rollout", "verifier", "teacher")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        f"The token may come from {TOKEN} or {TOKEN_FILE}, too; certificates as for every actor: see docs/remote.md."
    )
    parser.add_argument("hub", help="address of the run's hub, HOST:PORT")
    token = parser.add_mutually_exclusive_group()
    token.add_argument("--token", default="", help="the run's token; taken off the list of processes at once")
    token.add_argument("--token-file", type=Path, help="a file with the run's token")
    parser.add_argument("--as", choices=ROLES, default="rollout", dest="role", help="default: rollout")
    parser.add_argument("--teacher", default="", help="teacher: which of the run's; default: the first")
    parser.add_argument("--id", default="", help="name of this actor, unique in the run; default: ROLE-<host>-<pid>")
    parser.add_argument(
        "--address", default="", help="where it listens; default: this host's IP towards the hub, any port"
    )
    parser.add_argument("--cores", default="", help="processor cores to run on, e.g. 0,1; default: any")
    parser.add_argument("--cache", type=Path, help="where fetched files are kept; default: ~/.cache/rlserve/join")
    parser.add_argument("--wait", type=float, default=86400.0, help="seconds to wait for a learner (default: a day)")


def run(arguments: argparse.Namespace) -> int:
    """Does not return once everything is here: the process becomes the actor."""
    if arguments.token:
        # Every user of a host can read a process's arguments, its environment only the owner.
        os.environ[TOKEN] = checked(arguments.token, "--token")
        os.environ.pop(TOKEN_FILE, None)
        _become("join", *_words(arguments))
    if arguments.token_file:
        os.environ[TOKEN_FILE] = str(arguments.token_file.absolute())
        os.environ.pop(TOKEN, None)
    # Here: --help of this command should not load gRPC.
    from rlserve.actors.join import join
    from rlserve.records import ActorKind

    logs.set_up("join")
    address = arguments.address or f"{own_host(arguments.hub)}:0"
    cache = arguments.cache or _cache()
    role = ActorKind(arguments.role)
    member = asyncio.run(join(arguments.hub, role, arguments.teacher, cache, wait_seconds=arguments.wait))
    logger.info("joining run %s as %s; its files are in %s", member.config.name, role, member.paths.root)
    options = {"--id": arguments.id, "--teacher": arguments.teacher, "--cores": arguments.cores}
    _become(
        *("serve", role, "--run", str(member.paths.root), "--hub", arguments.hub, "--address", address),
        *(word for pair in options.items() if pair[1] for word in pair),
    )
    return 0


def own_host(hub: str) -> str:
    """The IP under which this host reaches the hub, and so under which the run's actors reach this host."""
    host = host_of(hub)
    if is_loopback(hub):
        return "127.0.0.1"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # No packet is sent: the kernel only picks the route, and with it the address.
            probe.connect((host, int(hub.rpartition(":")[2])))
        except OSError:
            return "127.0.0.1"  # the fetch reports that there is no way to the hub
        found = str(probe.getsockname()[0])
    return f"[{found}]" if ":" in found else found


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "rlserve" / "join"


def _words(arguments: argparse.Namespace) -> Sequence[str]:
    """The command line without the token."""
    options = {
        "--as": arguments.role,
        "--teacher": arguments.teacher,
        "--id": arguments.id,
        "--address": arguments.address,
        "--cores": arguments.cores,
        "--cache": str(arguments.cache or ""),
        "--wait": str(arguments.wait),
    }
    return [arguments.hub, *(word for pair in options.items() if pair[1] for word in pair)]


def _become(*words: str) -> None:
    """Replace this process, whose imports and gRPC threads the actor should not inherit."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "rlserve.cli.main", *words])
