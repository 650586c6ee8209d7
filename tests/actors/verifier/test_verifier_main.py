"""The verifier process: light to import, found through the hub, gone on a signal."""

import signal
import subprocess
import sys
import time

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.hub.main import hub_server
from rlserve.actors.verifier.client import VerifierClient
from rlserve.records import ActorKind

SERVE = (
    "import asyncio, sys\n"
    "from rlserve.actors.verifier.main import run_verifier\n"
    "from rlserve.config.tables.verifier import VerifierConfig\n"
    "sys.exit(asyncio.run(run_verifier(VerifierConfig(), names=['exact'], actor_id='v7', hub_address=sys.argv[1])))\n"
)


def test_a_verifier_host_needs_no_torch() -> None:
    program = (
        "import sys, rlserve.actors.verifier.main; print([m for m in ('torch', 'vllm', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_a_verifier_registers_serves_and_stops_on_a_signal() -> None:
    async with hub_server("127.0.0.1:0", 3.0) as hub_running, HubClient(hub_running.address) as hub:
        process = subprocess.Popen([sys.executable, "-c", SERVE, hub_running.address])
        try:
            actor = await hub.wait_for(ActorKind.VERIFIER, deadline_seconds=30)
            assert (actor.actor_id, actor.serves) == ("v7", ("exact",))
            async with VerifierClient(actor.address) as client:
                (verdict,) = await client.verify("exact", ["42"], b'{"answer": "42"}')
                assert verdict.reward == 1.0
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
            assert time.monotonic() - start < 5
        finally:
            process.kill()
            process.wait()
