"""Imported by the fork server of a rollout worker: what EngineCore needs, before there is anything to serve.

EngineCore is then a fork of a process that has imported vLLM and runs no other thread: it starts at once, and shares
that memory. Plug-ins are not loaded here: each EngineCore loads its own.
"""

import gc
import os

from rlserve.actors.rollout.deathwatch import follow_owner
from rlserve.actors.rollout.engine_start import import_engine_core
from rlserve.cpu_kernels import keep_freed_memory
from rlserve.engines.vllm.cpu import round_products

import_engine_core()
gc.freeze()  # EngineCore need not look for garbage among what was imported
round_products()
keep_freed_memory()
# From a child's first moment: until its plug-ins load it may wait minutes for a worker that is gone.
os.register_at_fork(after_in_child=follow_owner)
