"""A hub in a process of its own: ``python hub_process.py ADDRESS LEASE_SECONDS`` prints its address."""

import asyncio
import sys

from rlserve.actors.hub.main import run_hub

if __name__ == "__main__":
    sys.exit(asyncio.run(run_hub(sys.argv[1], float(sys.argv[2]), lambda address: print(address, flush=True))))
