"""Manifests of a run: valid by the schemas of Kubernetes and Compose, one process for each of the plan, no secret."""

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rlserve.cli.main import main
from rlserve.config.load import load_run, validate
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError
from rlserve.launch.gpus import needs_of
from rlserve.launch.plan import plan_processes
from rlserve.launch.render import compose, k8s, kuberay, slurm
from rlserve.launch.render.roles import CONFIG, Options, roles_of

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "tests" / "schemas"
CONFIGS = ["configs/gpu/gsm8k_qwen.toml", "configs/gpu/distill_qwen.toml", "configs/quickstart.toml"]
OPTIONS = Options(image="registry.example.org/rlserve:1")


@pytest.fixture(params=CONFIGS, ids=lambda path: Path(path).stem)
def config(request: pytest.FixtureRequest) -> RunConfig:
    return load_run([ROOT / request.param])


@functools.cache
def kubernetes(kind: str) -> Any:
    known = json.loads((SCHEMAS / "kubernetes.json").read_text())
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{known['kinds'][kind]}", "$defs": known["$defs"]})


def check_kubernetes(document: dict[str, Any], kind: str = "") -> None:
    """By the strict schemas: unknown fields are refused."""
    kubernetes(kind or document["kind"]).validate(document)


def test_kubernetes_manifests_validate_and_hold_together(config: RunConfig) -> None:
    documents = list(yaml.safe_load_all(k8s.files(config, OPTIONS)["manifests.yaml"]))
    for document in documents:
        check_kubernetes(document)
    of = {(d["kind"], d["metadata"]["name"]): d for d in documents}
    assert len(of) == len(documents)
    (job,) = (d["spec"] for d in documents if d["kind"] == "Job")
    assert job["completions"] == job["parallelism"] == config.learner.ranks and job["completionMode"] == "Indexed"
    pods = [d["spec"]["template"] for d in documents if d["kind"] in ("Job", "Deployment")]
    by_kind = {pod["spec"]["containers"][0]["name"]: pod["spec"] for pod in pods}
    # Each selector finds pods, and each name that is referred to is there.
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] in ("Service", "PodDisruptionBudget"):
            wanted = spec["selector"].get("matchLabels", spec["selector"]).items()
            assert any(wanted <= pod["metadata"]["labels"].items() for pod in pods), document["metadata"]["name"]
    run = job["template"]["spec"]["volumes"][-1]["persistentVolumeClaim"]["claimName"]
    assert ("PersistentVolumeClaim", run) in of
    name = job["template"]["spec"]["subdomain"]
    assert of["Service", name]["spec"]["clusterIP"] == "None"
    env = {e["name"]: e.get("value") for e in by_kind["learner"]["containers"][0]["env"]}
    assert env["MASTER_ADDR"] == f"{name}-0.{name}" and env["WORLD_SIZE"] == str(config.learner.ranks)
    for kind, spec in by_kind.items():
        container = spec["containers"][0]
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]}
        assert ("readinessProbe" in container) == (kind != "learner")
        hub = [word for word in container["command"] if word.endswith("-hub:7000")]
        assert bool(hub) == (kind != "hub") and all(("Service", word.removesuffix(":7000")) in of for word in hub)
    assert not [d for d in documents if d["kind"] == "Secret"], "the token is the owner's, and never in a file"


def test_every_process_of_the_plan_runs_with_its_gpus(config: RunConfig) -> None:
    plan = plan_processes(config, Path("runs/x"), hub_address="h:1")
    planned = sorted(spec.kind for spec in plan if spec.kind != "prepare")
    roles = roles_of(config, OPTIONS)
    assert sorted(r.kind for r in roles for _ in range(r.replicas) if r.kind != "hub") == planned
    gpus = sum(need.count for need in needs_of(config))
    assert sum(role.gpus * role.replicas for role in roles) == gpus
    documents = k8s.manifests(config, OPTIONS)
    asked = [
        d["spec"].get("completions", d["spec"].get("replicas"))
        * int(
            d["spec"]["template"]["spec"]["containers"][0]
            .get("resources", {})
            .get("limits", {})
            .get("nvidia.com/gpu", 0)
        )
        for d in documents
        if d["kind"] in ("Job", "Deployment")
    ]
    assert sum(asked) == gpus
    assert f"#SBATCH --gpus={gpus}\n" in slurm.script(config, OPTIONS)
    on_cpus = Options(image="i", accelerators=False)
    for text in (
        *k8s.files(config, on_cpus).values(),
        slurm.script(config, on_cpus),
        *compose.files(config, on_cpus).values(),
    ):
        assert "nvidia" not in text and "--gpus" not in text


def test_the_compose_file_validates_and_its_files_are_there(config: RunConfig) -> None:
    made = compose.files(config, OPTIONS)
    document = yaml.safe_load(made["compose.yaml"])
    jsonschema.Draft7Validator(json.loads((SCHEMAS / "compose.json").read_text())).validate(document)
    assert document["configs"]["run"]["file"].removeprefix("./") in made
    services = document["services"]
    assert sum(s.get("deploy", {}).get("replicas", 1) for s in services.values()) == 1 + sum(
        spec.kind != "prepare" for spec in plan_processes(config, Path("x"), hub_address="h")
    )
    assert {name for s in services.values() for name in (v.partition(":")[0] for v in s.get("volumes", []))} == {"runs"}


def test_the_batch_script_is_one(config: RunConfig, tmp_path: Path) -> None:
    (name, text), _ = slurm.files(config, OPTIONS).items()
    (tmp_path / name).write_text(text)
    subprocess.run(["bash", "-n", str(tmp_path / name)], check=True)
    assert text.startswith("#!/usr/bin/env bash\n#SBATCH ") and text.count("srun ") == len(roles_of(config, OPTIONS))


def test_a_rayjob_has_the_run_as_its_entry_point_and_valid_pods(config: RunConfig) -> None:
    _, job = kuberay.manifests(config, OPTIONS)
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        check_kubernetes(group["template"], "PodTemplateSpec")
    assert job["spec"]["entrypoint"] == f"rlserve run {CONFIG} --on ray"
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] * group["replicas"] >= sum(need.count for need in needs_of(config))


def test_what_describes_one_machine_stays_there() -> None:
    values = {
        "name": "My_Run.1",
        "model": {"path": "m"},
        "environments": [{"name": "arithmetic"}],
        "launch": {"host": "10.0.0.7", "cores": {"learner": [0]}, "gpus": {"learner": [3]}},
    }
    config = validate(RunConfig, values)
    text = k8s.files(config, OPTIONS)["manifests.yaml"]
    assert "10.0.0.7" not in text and "cores" not in text.replace("launch.cores", "")
    assert re.fullmatch(r"my-run-1-config", next(iter(yaml.safe_load_all(text)))["metadata"]["name"])
    with pytest.raises(
        ConfigError, match=r"verifier\.share_functions: is false, but verifiers that join need /x/r\.py:f"
    ):
        roles_of(
            config.model_copy(update={"reward": validate(RunConfig, {**values, "reward": "/x/r.py:f"}).reward}), OPTIONS
        )


@pytest.mark.parametrize("form", ["k8s", "kuberay", "slurm", "compose"])
def test_the_command_writes_the_files(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["render", form, "gpu/gsm8k_qwen", "--out", str(out), "--token-secret", "mine", "--data", "files"]
    assert main(words) == 0
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(str(path) for path in out.iterdir()) and printed
    if form == "k8s":
        assert "secretName: mine" in (out / "manifests.yaml").read_text()
        assert "claimName: files" in (out / "manifests.yaml").read_text()
    (tmp_path / "file").touch()
    assert main([*words[:3], "--out", str(tmp_path / "file")]) == 1
