"""Kubernetes manifests: an indexed Job of learner ranks with stable names, a Deployment of each other role.

The token is a Secret of the owner's, named and never contained. Calls are plain within the cluster's network, and a
NetworkPolicy lets only pods of the run in.
"""

import math
from collections.abc import Mapping
from typing import Any

from rlserve.config.run import RunConfig
from rlserve.launch.render.documents import written
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

PROBE_SECONDS = 10
"""Between two health checks; any value of this size will do."""
WORK = "/work"
"""Working directory, where the relative paths of a configuration begin."""
RUN_STORAGE = "100Gi"
"""Asked for the run directory; edit it to fit checkpoint.keep + 1 checkpoints, of about 16 bytes a parameter."""


def files(config: RunConfig, options: Options) -> dict[str, str]:
    """``manifests.yaml``, for ``kubectl apply -f``."""
    return {"manifests.yaml": written(manifests(config, options))}


def manifests(config: RunConfig, options: Options) -> list[dict[str, Any]]:
    """All objects, in the order in which they are best applied."""
    site = _Site(config, options)
    roles = roles_of(config, options)
    made = [
        site.object("v1", "ConfigMap", "config", {"data": {"config.toml": container_config(config)}}),
        _network_policy(site),
    ]
    for role in roles:
        made += _learner(site, role) if role.kind == "learner" else _deployment(site, role)
    return made


class _Site:
    """Names and pods of one run."""

    def __init__(self, config: RunConfig, options: Options) -> None:
        self.config, self.options = config, options
        self.run = dns_name(config.name)
        self.secret = options.token_secret or f"{self.run}-token"
        self.hub = f"{self.run}-hub:7000"

    def labels(self, role: str = "") -> dict[str, str]:
        run = {"app.kubernetes.io/name": "rlserve", "app.kubernetes.io/instance": self.run}
        return run | ({"app.kubernetes.io/component": role} if role else {})

    def object(self, version: str, kind: str, name: str, body: Mapping[str, Any], role: str = "") -> dict[str, Any]:
        metadata = {"name": f"{self.run}-{name}", "labels": self.labels(role)}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **body}

    def pod(self, role: Role, **more: Any) -> dict[str, Any]:
        """The template of a role's pods."""
        ids = role.kind == "learner"
        words = role.words(
            hub=self.hub,
            # Kubernetes replaces $(POD_IP): each pod listens at its own address alone, and registers with it.
            address=f"$(POD_IP):{role.port}",
            identity="learner" if ids else "$(POD_NAME)" if role.kind != "hub" else "",
        )
        container: dict[str, Any] = {
            "name": role.kind,
            "image": self.options.image,
            "command": ["rlserve", *words],
            "workingDir": WORK,
            "env": [
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "RLSERVE_TOKEN_FILE", "value": TOKEN},
                {"name": "RLSERVE_INSECURE", "value": "1"},
                *more.pop("env", ()),
            ],
            "ports": [{"name": "grpc", "containerPort": role.port}],
            **more.pop("probes", {}),
            "volumeMounts": [
                {"name": "config", "mountPath": CONFIG.rpartition("/")[0], "readOnly": True},
                {"name": "token", "mountPath": TOKEN.rpartition("/")[0], "readOnly": True},
                # Kubernetes gives 64 MB, which no weights fit in.
                {"name": "shared-memory", "mountPath": "/dev/shm"},
                *more.pop("mounts", ()),
                *([{"name": "data", "mountPath": WORK, "readOnly": True}] if self.options.data else []),
            ],
        }
        if role.gpus:
            container["resources"] = {"limits": {"nvidia.com/gpu": role.gpus}}
        claim = {"name": "data", "persistentVolumeClaim": {"claimName": self.options.data, "readOnly": True}}
        spec = {
            "terminationGracePeriodSeconds": math.ceil(self.config.launch.stop_seconds) + PROBE_SECONDS,
            "containers": [container],
            "volumes": [
                {"name": "config", "configMap": {"name": f"{self.run}-config"}},
                {"name": "token", "secret": {"secretName": self.secret}},
                {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
                *more.pop("volumes", ()),
                *([claim] if self.options.data else []),
            ],
            **more,
        }
        return {"metadata": {"labels": self.labels(role.name)}, "spec": spec}


def _deployment(site: _Site, role: Role) -> list[dict[str, Any]]:
    health = {"grpc": {"port": role.port}, "periodSeconds": PROBE_SECONDS}
    probes = {
        # An engine loads and compiles before it serves; workers that join wait for the learner first.
        "startupProbe": {**health, "failureThreshold": math.ceil(2 * site.config.launch.start_seconds / PROBE_SECONDS)},
        "readinessProbe": health,
        "livenessProbe": {**health, "failureThreshold": 6},
    }
    body: dict[str, Any] = {
        "replicas": role.replicas,
        "selector": {"matchLabels": site.labels(role.name)},
        "template": site.pod(role, probes=probes),
    }
    if role.kind == "hub":
        body["strategy"] = {"type": "Recreate"}  # two hubs at once would each have half of the actors
    made = [site.object("apps/v1", "Deployment", role.name, {"spec": body}, role.name)]
    if role.kind == "hub":
        made.append(_service(site, role))
    # Drains take one pod of a pool at a time; the others take over its leases.
    return [*made, _budget(site, role, {"maxUnavailable": 1})]


def _learner(site: _Site, role: Role) -> list[dict[str, Any]]:
    name, ranks = f"{site.run}-{role.name}", role.replicas
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    # The pods of an indexed Job have the host names NAME-0, NAME-1, ... below the headless service.
    env = [
        {"name": "RANK", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": "LOCAL_RANK", "value": "0"},
        {"name": "WORLD_SIZE", "value": str(ranks)},
        {"name": "MASTER_ADDR", "value": f"{name}-0.{name}"},
        {"name": "MASTER_PORT", "value": str(RANK_PORT)},
    ]
    claim = f"{site.run}-run"
    pod = site.pod(
        role,
        env=env,
        mounts=[{"name": "run", "mountPath": RUNS}],
        volumes=[{"name": "run", "persistentVolumeClaim": {"claimName": claim}}],
        subdomain=name,
        restartPolicy="Never",
    )
    # No probes: ranks other than 0 serve nothing, and a learner that cannot go on ends by itself.
    job = {
        "completionMode": "Indexed",
        "completions": ranks,
        "parallelism": ranks,
        "backoffLimit": site.config.launch.max_restarts * ranks,
        # 78: the configuration cannot work, so that another try would fail alike.
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": "learner", "operator": "In", "values": [78]}}
            ]
        },
        "template": pod,
    }
    storage = {
        "accessModes": ["ReadWriteOnce" if ranks == 1 else "ReadWriteMany"],
        "resources": {"requests": {"storage": RUN_STORAGE}},
    }
    return [
        site.object("v1", "PersistentVolumeClaim", "run", {"spec": storage}, role.name),
        _service(site, role, headless=True),
        site.object("batch/v1", "Job", role.name, {"spec": job}, role.name),
        # Of pods of a Job only a number that must be there is supported: no drain takes a rank.
        _budget(site, role, {"minAvailable": ranks}),
    ]


def _service(site: _Site, role: Role, *, headless: bool = False) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "selector": site.labels(role.name),
        "ports": [{"name": "grpc", "port": role.port, "targetPort": "grpc"}],
    }
    if headless:
        # Ranks look each other up before any of them is ready.
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return site.object("v1", "Service", role.name, {"spec": spec}, role.name)


def _budget(site: _Site, role: Role, allowed: Mapping[str, int]) -> dict[str, Any]:
    spec = {**allowed, "selector": {"matchLabels": site.labels(role.name)}}
    return site.object("policy/v1", "PodDisruptionBudget", role.name, {"spec": spec}, role.name)


def _network_policy(site: _Site) -> dict[str, Any]:
    own = {"matchLabels": site.labels()}
    spec = {"podSelector": own, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": own}]}]}
    return site.object("networking.k8s.io/v1", "NetworkPolicy", "own-pods", {"spec": spec})
