"""A RayJob for KubeRay: a Ray cluster with the run's GPUs, on which ``rlserve run --on ray`` places the processes."""

from typing import Any

from rlserve.config.run import RunConfig
from rlserve.launch.render.documents import written
from rlserve.launch.render.roles import CONFIG, TOKEN, Options, container_config, dns_name, roles_of

HEAD_CORES, WORKER_CORES = "4", "8"
"""CPUs of the head, where hub, environment and verifier run, and of a worker; edit them to fit the nodes."""


def files(config: RunConfig, options: Options) -> dict[str, str]:
    """``manifests.yaml``, for ``kubectl apply -f``."""
    return {"manifests.yaml": written(manifests(config, options))}


def manifests(config: RunConfig, options: Options) -> list[dict[str, Any]]:
    """The configuration and the job."""
    run = dns_name(config.name)
    roles = roles_of(config, options)
    computing = [role for role in roles if role.kind in ("learner", "rollout", "teacher")]
    gpus = max(role.gpus for role in computing)
    worker = {
        "groupName": "workers",
        "replicas": sum(role.replicas for role in computing),
        "minReplicas": 0,
        "maxReplicas": sum(role.replicas for role in computing),
        "rayStartParams": {},
        "template": _pod(run, options, WORKER_CORES, gpus),
    }
    spec = {
        "entrypoint": f"rlserve run {CONFIG} --on ray",
        "shutdownAfterJobFinishes": True,
        "rayClusterSpec": {
            "headGroupSpec": {
                "rayStartParams": {"dashboard-host": "0.0.0.0"},
                "template": _pod(run, options, HEAD_CORES, 0),
            },
            "workerGroupSpecs": [worker],
        },
    }
    labels = {"app.kubernetes.io/name": "rlserve", "app.kubernetes.io/instance": run}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{run}-config", "labels": labels},
            "data": {"config.toml": container_config(config)},
        },
        {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": run, "labels": labels}, "spec": spec},
    ]


def _pod(run: str, options: Options, cores: str, gpus: int) -> dict[str, Any]:
    limits: dict[str, Any] = {"cpu": cores, **({"nvidia.com/gpu": gpus} if gpus else {})}
    secret = options.token_secret or f"{run}-token"
    container = {
        "name": "ray",
        "image": options.image,
        "env": [{"name": "RLSERVE_TOKEN_FILE", "value": TOKEN}, {"name": "RLSERVE_INSECURE", "value": "1"}],
        "resources": {"limits": limits},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG.rpartition("/")[0], "readOnly": True},
            {"name": "token", "mountPath": TOKEN.rpartition("/")[0], "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    volumes = [
        {"name": "config", "configMap": {"name": f"{run}-config"}},
        {"name": "token", "secret": {"secretName": secret}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    return {"spec": {"containers": [container], "volumes": volumes}}
