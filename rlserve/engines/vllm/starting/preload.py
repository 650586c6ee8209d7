"""Imported by a worker's fork server: loads what EngineCore needs before there is a model to serve.

EngineCore is then a fork of a process that imported vLLM and runs no other thread: it starts at once and shares that
memory. Plug-ins are not loaded here: each EngineCore loads its own.
"""

import gc
import os

from rlserve.cpu_kernels import keep_freed_memory
from rlserve.engines.vllm.cpu import round_products
from rlserve.engines.vllm.parent_watch import follow_owner
from rlserve.engines.vllm.starting.start import import_engine_core

import_engine_core()
gc.freeze()  # a collection in EngineCore would visit, and so copy, every imported object
round_products()
keep_freed_memory()
# At the fork, not when plug-ins load: before that, EngineCore may wait minutes for a worker that is dead already.
os.register_at_fork(after_in_child=follow_owner)
