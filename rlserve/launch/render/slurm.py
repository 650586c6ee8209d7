"""A Slurm batch script: one job, a step of each role; the job ends with the learner's exit code."""

import shlex

from rlserve.config.run import RunConfig
from rlserve.launch.render.roles import (
    CONFIG,
    RANK_PORT,
    RUNS,
    TOKEN,
    Options,
    Role,
    container_config,
    dns_name,
    roles_of,
)

HEAD = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --ntasks={tasks}
#SBATCH --cpus-per-task=4
{gpus}#SBATCH --signal=B:TERM@120
# Submit where this file lies: sbatch {name}.sbatch. It takes the token from the file RLSERVE_TOKEN_FILE names.
set -euo pipefail
here=${{SLURM_SUBMIT_DIR:-$PWD}}
export RLSERVE_TOKEN_FILE=${{RLSERVE_TOKEN_FILE:?set it to a file with the token of the run}}
export RLSERVE_INSECURE=1  # a cluster's own network; or set RLSERVE_TLS_CERTIFICATE, _KEY and _CA instead
config=$here/config.toml
runs=${{RLSERVE_RUNS:-$here/runs}}
hub=$(hostname):${{RLSERVE_HUB_PORT:-7000}}
mkdir -p "$runs"
learner= steps=()
stop() {{ kill "${{steps[@]}}" 2>/dev/null || true; wait || true; }}
trap 'kill -TERM "$learner" 2>/dev/null; wait "$learner" || true; stop; exit 143' TERM
"""
TAIL = """\
code=0
wait "$learner" || code=$?
stop
exit "$code"
"""


def files(config: RunConfig, options: Options) -> dict[str, str]:
    """``NAME.sbatch`` and ``config.toml``."""
    name = dns_name(config.name)
    return {f"{name}.sbatch": script(config, options), "config.toml": container_config(config)}


def script(config: RunConfig, options: Options) -> str:
    """The batch script."""
    roles = roles_of(config, options)
    gpus = sum(role.gpus * role.replicas for role in roles)
    head = HEAD.format(
        name=dns_name(config.name),
        tasks=sum(role.replicas for role in roles),
        gpus=f"#SBATCH --gpus={gpus}\n" if gpus else "",
    )
    lines = [line for role in roles if role.kind != "learner" for line in (_step(role), "steps+=($!)")]
    learners = [line for role in roles if role.kind == "learner" for line in (_step(role), "learner=$!")]
    return head + "\n".join([*lines, *learners]) + "\n" + TAIL


def _step(role: Role) -> str:
    # On the first node, whose name is in $hub; the others anywhere, each at its node's own address.
    where = '--nodes=1 --nodelist="$(hostname)" ' if role.kind == "hub" else ""
    gpus = f"--gpus-per-task={role.gpus} " if role.gpus else ""
    step = f"srun --exact --ntasks={role.replicas} {where}{gpus}"
    address = "$hub" if role.kind == "hub" else "0.0.0.0:0" if role.kind in ("environment", "learner") else ""
    words = [_quoted(word) for word in role.words(hub="$hub", address=address)]
    if role.kind != "learner":
        return f"{step}rlserve {' '.join(words)} &"
    # Each task is a rank; the first node of the step is where they meet.
    ranks = (
        "export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=0 "
        f'MASTER_PORT={RANK_PORT} MASTER_ADDR=$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1); exec "$@"'
    )
    return f"{step}bash -c {shlex.quote(ranks)} rank rlserve {' '.join(words)} &"


def _quoted(word: str) -> str:
    """A word for the script, in which the places of containers are those of the job."""
    for place, variable in ((CONFIG, "$config"), (RUNS, "$runs"), (TOKEN, "$RLSERVE_TOKEN_FILE")):
        word = word.replace(place, variable)
    return f'"{word}"' if "$" in word else shlex.quote(word)
