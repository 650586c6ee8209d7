"""MLflow, by ``mlflow-skinny``: a server, or files on this machine. A database needs the whole ``mlflow``."""

import importlib.util
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from rlserve.errors import InvalidRequest
from rlserve.trackers.base import COLUMNS, Row, TrackedRun, flat, need_directory, need_package, need_texts

ALLOW_FILES = "MLFLOW_ALLOW_FILE_STORE"
"""Without this variable MLflow refuses a store of files."""
REACH_SECONDS = 3.0
"""For a server to answer before anything starts: any that works does in a fraction."""
BATCH = 100  # parameters, MLflow's limit for one call; that of metrics is 1000
MAX_PARAMETER = 500
"""Characters of a parameter that every version of MLflow takes."""
_REFUSED = re.compile(r"[^\w\-. /]")
"""Characters that MLflow does not take in a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowTracker:
    """A run of MLflow."""

    uri: str = ""
    """Of the tracking server or store; empty: ``MLFLOW_TRACKING_URI``, else ``mlruns/`` beside the run directory."""
    experiment: str = "rlserve"

    def __post_init__(self) -> None:
        need_texts(uri=self.uri, experiment=self.experiment)

    def check(self, root: Path) -> None:
        """Raises InvalidRequest without the package, a directory, or a server that answers."""
        need_package("mlflow", "mlflow")
        uri = urlparse(self._uri(root))
        if uri.scheme in ("http", "https"):
            _reach(uri.geturl())
        elif uri.scheme in ("", "file"):
            need_directory("uri", Path(unquote(uri.path)))
        elif importlib.util.find_spec("sqlalchemy") is None:
            raise InvalidRequest(
                f"uri: is {uri.geturl()!r}, a database, for which the whole package is needed; pip install mlflow, "
                "or give a directory or the address of a server"
            )

    def open(self, run: TrackedRun) -> "_Run":
        """A new run, or after a resume the same one."""
        return _Run(self._uri(run.root), self.experiment, run)

    def _uri(self, root: Path) -> str:
        given = self.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        return given or (root.absolute().parent / "mlruns").as_uri()


class _Run:
    def __init__(self, uri: str, experiment: str, run: TrackedRun) -> None:
        os.environ.setdefault(ALLOW_FILES, "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        self.identity = run.identity or self._create(experiment, run.name)
        # Running again after a resume.
        self._client.update_run(self.identity, status="RUNNING")
        self._log_parameters(run.config)

    def _create(self, experiment: str, name: str) -> str:
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        return str(self._client.create_run(number, run_name=name).info.run_id)

    def _log_parameters(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.identity).data.params
        # MLflow refuses another value for a parameter: what a resume changed stays as it was, and config.toml has it.
        new = [
            Param(_name(key), str(value)[:MAX_PARAMETER])
            for key, value in flat(config).items()
            if _name(key) not in known
        ]
        for start in range(0, len(new), BATCH):
            self._client.log_batch(self.identity, params=new[start : start + BATCH])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._client.log_batch(self.identity, metrics=list(_metrics(step, values)))

    def table(self, step: int, name: str, rows: Sequence[Row]) -> None:
        # As MLflow's own log_table writes it, which would need pandas.
        data = [[row.get(column) for column in COLUMNS] for row in rows]
        self._client.log_dict(
            self.identity, {"columns": list(COLUMNS), "data": data}, f"{_name(name)}/step-{step}.json"
        )

    def result(self, values: Mapping[str, float | str]) -> None:
        for key, value in values.items():
            self._client.set_tag(self.identity, f"result.{_name(key)}", str(value))
        self._client.set_terminated(self.identity, "FINISHED")

    def close(self) -> None:
        if self._client.get_run(self.identity).info.status == "RUNNING":  # without a result
            self._client.set_terminated(self.identity, "KILLED")


def _metrics(step: int, values: Mapping[str, float]) -> Iterator[Any]:
    from mlflow.entities import Metric

    milliseconds = int(time.time() * 1000)
    for name, value in values.items():
        yield Metric(_name(name), value, milliseconds, step)


def _name(name: str) -> str:
    return _REFUSED.sub("_", name.replace("@", "_at_"))


def _reach(uri: str) -> None:
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers; some servers behind a proxy have no such page
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"uri: no MLflow server answers at {uri!r} ({error}); start it, or give another") from None
