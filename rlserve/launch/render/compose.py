"""A compose file: every role a service of one machine; configuration and token are files beside it."""

import math
from typing import Any

from rlserve.config.run import RunConfig
from rlserve.launch.gpus import rank_name
from rlserve.launch.render.documents import written
from rlserve.launch.render.roles import (
    CONFIG,
    RANK_PORT,
    RUNS,
    TOKEN,
    Options,
    Role,
    container_config,
    roles_of,
)

SHARED_MEMORY = "16gb"
"""Room for weights; Docker gives 64 MB, and only what is used takes memory."""


def files(config: RunConfig, options: Options) -> dict[str, str]:
    """``compose.yaml`` and ``config.toml``; the file ``token`` is the owner's."""
    return {"compose.yaml": written([compose(config, options)]), "config.toml": container_config(config)}


def compose(config: RunConfig, options: Options) -> dict[str, Any]:
    """The file as plain data."""
    services = {}
    for role in roles_of(config, options):
        if role.kind == "learner":
            for rank in range(role.replicas):
                services[rank_name(rank)] = _rank(config, options, role, rank)
        else:
            services[role.name] = _service(config, options, role)
            if role.replicas > 1:
                services[role.name].setdefault("deploy", {})["replicas"] = role.replicas
    return {
        "services": services,
        "configs": {"run": {"file": "./config.toml"}},
        "secrets": {"token": {"file": "./token"}},
        "volumes": {"runs": {}},
    }


def _service(config: RunConfig, options: Options, role: Role) -> dict[str, Any]:
    service: dict[str, Any] = {
        "image": options.image,
        # A container's host name is known to the others, so that it registers under it.
        "command": ["rlserve", *role.words(hub="hub:7000", address=f"0.0.0.0:{role.port}")],
        "environment": {"RLSERVE_TOKEN_FILE": TOKEN, "RLSERVE_INSECURE": "1"},
        "configs": [{"source": "run", "target": CONFIG}],
        "secrets": [{"source": "token", "target": TOKEN}],
        "restart": "on-failure",
        "stop_grace_period": f"{math.ceil(config.launch.stop_seconds)}s",
        "shm_size": SHARED_MEMORY,
    }
    if role.gpus:
        devices = [{"driver": "nvidia", "count": role.gpus, "capabilities": ["gpu"]}]
        service["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    return service


def _rank(config: RunConfig, options: Options, role: Role, rank: int) -> dict[str, Any]:
    service = _service(config, options, role)
    service["environment"] |= {
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(role.replicas),
        "MASTER_ADDR": "learner",
        "MASTER_PORT": str(RANK_PORT),
    }
    # Ranks share the run directory, and with it the checkpoints.
    service["volumes"] = [f"runs:{RUNS}"]
    return service
