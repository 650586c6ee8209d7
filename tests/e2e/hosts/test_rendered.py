"""What ``rlserve render`` wrote really runs, from nothing to the end: each command in a host of its own name."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlserve.cli.main import main
from rlserve.launch.render.roles import CONFIG, RUNS, TOKEN
from tests.support.counts import check_counts_add_up

pytestmark = [pytest.mark.whole, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[3]
SMALL = (
    *("--set", "pretrain.stage.steps=20", "--set", "sft.stage.steps=40", "--set", "steps=2"),
    *("--set", "evaluate.problems=0", "--unset", "stop_reward", "--set", "learner.groups_per_step=8"),
)


@contextmanager
def network() -> Iterator[str]:
    """A network namespace of the test's own, whose only device is loopback."""
    name = f"rlserve-{uuid.uuid4().hex[:8]}"
    if os.geteuid() != 0 or subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        pytest.skip("hosts of names of their own need the right to make namespaces")
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def on_host(name: str, network: str, hosts: Path) -> list[str]:
    """Prefix of a command that runs on the host ``name``, and knows the others by ``hosts``."""
    inside = f'hostname {name} && mount --bind "{hosts}" /etc/hosts && exec "$@"'
    return ["ip", "netns", "exec", network, "unshare", "-m", "-u", "sh", "-c", inside, "sh"]


def environment(home: Path) -> dict[str, str]:
    home.mkdir()
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def rendered(form: str, out: Path) -> None:
    assert main(["render", form, str(ROOT / "configs/quickstart.toml"), "--out", str(out), "--cpu", *SMALL]) == 0
    (out / "token").write_text("a-token-of-24-characters")


def check_result(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 2
    check_counts_add_up(summary["groups"])


def test_the_services_of_a_compose_file_train_a_model(tmp_path: Path) -> None:
    out, runs, hosts = tmp_path / "out", tmp_path / "runs", tmp_path / "hosts"
    rendered("compose", out)
    services = yaml.safe_load((out / "compose.yaml").read_text())["services"]
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"127.0.0.1 {name}\n" for name in services))
    places = {CONFIG: out / "config.toml", TOKEN: out / "token", RUNS: runs}

    def here(text: str) -> str:
        for place, path in places.items():
            text = text.replace(place, str(path))
        return text

    with network() as name, ExitStack() as stack:
        processes: dict[str, Any] = {}
        for service, what in services.items():
            words = [sys.executable, "-m", "rlserve.cli.main", *map(here, what["command"][1:])]
            given = {key: here(value) for key, value in what["environment"].items()}
            log = stack.enter_context((tmp_path / f"{service}.log").open("wb"))
            processes[service] = subprocess.Popen(
                [*on_host(service, name, hosts), *words],
                env={**environment(tmp_path / f"home-{service}"), **given},
                cwd=tmp_path,
                stdout=log,
                stderr=log,
            )
            stack.callback(ended, processes[service])
        assert processes["learner"].wait(900) == 0, tail(tmp_path)
        assert processes["rollout"].wait(60) == 0, tail(tmp_path)
    check_result(runs / "run")


def test_a_batch_script_trains_a_model(tmp_path: Path) -> None:
    out, hosts, bin_ = tmp_path / "out", tmp_path / "hosts", tmp_path / "bin"
    rendered("slurm", out)
    hosts.write_text("127.0.0.1 localhost node-1\n")
    bin_.mkdir()
    # srun starts its tasks on this machine; all else of the script is what a cluster runs.
    program(bin_ / "rlserve", f'exec {sys.executable} -m rlserve.cli.main "$@"')
    program(bin_ / "scontrol", "echo node-1")
    program(
        bin_ / "srun",
        'tasks=1; while [ "${1#--}" != "$1" ]; do case $1 in --ntasks=*) tasks=${1#--ntasks=};; esac; shift; done\n'
        '[ "$tasks" = 1 ] || { echo "one task a step here"; exit 2; }\n'
        'SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_STEP_NODELIST=node-1 exec "$@"',
    )
    given = {
        **environment(tmp_path / "home"),
        "SLURM_SUBMIT_DIR": str(out),
        "RLSERVE_TOKEN_FILE": str(out / "token"),
    }
    given["PATH"] = f"{bin_}:{given['PATH']}"
    with network() as name, (tmp_path / "batch.log").open("wb") as log:
        command = [*on_host("node-1", name, hosts), "bash", str(out / "quickstart.sbatch")]
        batch = subprocess.Popen(command, env=given, cwd=tmp_path, stdout=log, stderr=log)
        try:
            assert batch.wait(900) == 0, tail(tmp_path)
        finally:
            ended(batch)
    check_result(out / "runs" / "run")


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def ended(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    time.sleep(0.1)


def tail(folder: Path) -> str:
    return "\n".join(
        f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in sorted(folder.glob("*.log"))
    )
