"""An environment server of the game ``guess`` in a process of its own: ``python guess_actor.py ID HUB``."""

import asyncio
import sys

from rlserve.actors.environment.main import run_environment
from rlserve.actors.process import die_with_parent
from rlserve.config.tables.environment import EnvironmentConfig

if __name__ == "__main__":
    die_with_parent()
    actor_id, hub = sys.argv[1:]
    games = [EnvironmentConfig(name="guess", options={"max_number": 9, "turns": 4})]
    sys.exit(asyncio.run(run_environment(games, actor_id=actor_id, hub_address=hub, address="127.0.0.1:0")))
