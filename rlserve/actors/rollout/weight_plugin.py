"""The door into vLLM's processes: what they run of ours when they start, and what we may ask of them.

Registered as entry point ``vllm.general_plugins``, so every process that vLLM starts runs ``register``.
"""

from pathlib import Path
from typing import Any

import torch
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from rlserve.actors.rollout.deathwatch import follow_owner
from rlserve.actors.rollout.jobs import state_of

BACKEND = "rlserve"
"""Name of our weight-transfer engine."""
EXTENSION = "rlserve.actors.rollout.weight_plugin.WeightCalls"
"""What vLLM mixes into its workers."""


def register() -> None:
    """Make our weight-transfer engine known, and this process fit to serve.

    It asks for the tile registers that bf16 attention uses (or it dies of SIGILL), and ends with its owner.
    """
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "rlserve.actors.rollout.weight_engine", "StagedWeightEngine"
        )
    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()
    follow_owner()


class WeightCalls:
    """Calls for ``collective_rpc``. Those that begin something return at once; the engine steps on meanwhile."""

    weight_transfer_engine: Any

    def stage_weights(self, policy: dict[str, Any], path: str) -> None:
        """Begin to stage a version from its flat file."""
        self.weight_transfer_engine.stage(policy, Path(path))

    def staging_state(self) -> dict[str, Any]:
        """How staging goes; ``kind`` and ``error`` stay empty when it went well."""
        return state_of(self.weight_transfer_engine.staging)

    def begin_digest(self) -> None:
        """Begin to digest the weights that were served last."""
        self.weight_transfer_engine.begin_digest()

    def digest_state(self) -> dict[str, Any]:
        """How digesting goes; ``result`` is the digest."""
        return state_of(self.weight_transfer_engine.digesting)

    def update_method(self) -> str:
        """``"exchange"`` or ``"reload"``."""
        method: str = self.weight_transfer_engine.method
        return method
