"""A teacher server in a process of its own: ``python teacher_actor.py ID HUB NAME MODEL``."""

import asyncio
import sys

from rlserve.actors.process import die_with_parent
from rlserve.actors.teacher.main import run_teacher
from rlserve.config.tables.teacher import TeacherConfig

if __name__ == "__main__":
    die_with_parent()
    actor_id, hub, name, model = sys.argv[1:]
    config = TeacherConfig(name=name, model=model, dtype="float32", max_length=128)
    sys.exit(asyncio.run(run_teacher(config, model=model, actor_id=actor_id, hub_address=hub)))
