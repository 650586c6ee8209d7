"""What a tracker kept of a run, read back by its own library."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

WANDB_BLOCK = 32768
WANDB_HEADER = 7  # bytes, of the file and of each record


@dataclass
class Kept:
    """Curves by name as (step, value), configuration by dotted key, tables by name as rows, and the result."""

    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    result: dict[str, str] = field(default_factory=dict)
    runs: int = 0


def read_tensorboard(place: Path, name: str) -> Kept:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0}, purge_orphaned_data=True)
    events.Reload()
    kept = Kept(runs=1)
    for tag in events.Tags()["scalars"]:
        kept.curves[tag] = [(e.step, e.value) for e in events.Scalars(tag)]

    def text(tag: str) -> str:
        return str(events.Tensors(tag)[-1].tensor_proto.string_val[0].decode())

    kept.config = _dotted(json.loads(text("configuration")))
    if "samples" in events.Tags()["tensors"]:
        rows = text("samples").splitlines()[2:]
        kept.tables["samples"] = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    kept.result = dict(line.removeprefix("* ").split(": ", 1) for line in text("result").splitlines())
    return kept


def read_mlflow(place: Path, name: str) -> Kept:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=place.as_uri())
    experiment = client.get_experiment_by_name("rlserve")
    found = client.search_runs([experiment.experiment_id], f"tags.`mlflow.runName` = '{name}'")
    run = found[0]
    kept = Kept(runs=len(found), config=dict(run.data.params))
    for metric in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, metric)
        kept.curves[metric.replace("_at_", "@")] = [(point.step, point.value) for point in history]
    for file in client.list_artifacts(run.info.run_id, "samples"):
        local = client.download_artifacts(run.info.run_id, file.path)
        kept.tables["samples"] = [[_plain(v) for v in row] for row in json.loads(Path(local).read_text())["data"]]
    kept.result = {k.removeprefix("result."): v for k, v in run.data.tags.items() if k.startswith("result.")}
    assert run.info.status == "FINISHED"
    return kept


def read_trackio(place: Path, name: str) -> Kept:
    from trackio import sqlite_storage
    from trackio.sqlite_storage import SQLiteStorage

    # Its directory is read once in a process, when it is imported.
    with patch.object(sqlite_storage, "TRACKIO_DIR", place):
        return _read_trackio(SQLiteStorage, name)


def _read_trackio(storage: Any, name: str) -> Kept:
    kept = Kept(runs=sum(run == name for run in storage.get_runs("rlserve")))
    kept.config = _dotted(storage.get_run_config("rlserve", name))
    for row in storage.get_logs("rlserve", name):
        for key, value in row.items():
            if isinstance(value, dict) and value.get("_type") == "trackio.table":
                kept.tables[key] = [[_plain(v) for v in line.values()] for line in value["_value"]]
            elif key.startswith("result/"):
                kept.result[key.removeprefix("result/")] = str(value)
            elif key not in ("step", "timestamp"):
                kept.curves.setdefault(key, []).append((row["step"], value))
    return kept


def read_wandb(place: Path, name: str) -> Kept:
    from wandb.proto.wandb_internal_pb2 import Record

    kept, identities = Kept(), set()
    for path in sorted(place.glob("wandb/offline-run-*/run-*.wandb")):
        for data in _wandb_records(path.read_bytes()):
            record = Record.FromString(data)
            match record.WhichOneof("record_type"):
                case "run":
                    identities.add(record.run.run_id)
                    assert record.run.display_name == name
                    kept.config |= _dotted({u.key: json.loads(u.value_json) for u in record.run.config.update})
                case "history":
                    row = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                    for key, value in row.items():
                        if key.endswith(".path"):
                            table = json.loads((path.parent / "files" / value).read_text())
                            kept.tables[key.removesuffix(".path")] = [[_plain(v) for v in r] for r in table["data"]]
                        elif key != "step" and not key.startswith(("_", "samples.")):
                            kept.curves.setdefault(key, []).append((row["step"], value))
                case "summary":
                    for item in record.summary.update:
                        kept.result[item.key or ".".join(item.nested_key)] = _plain(json.loads(item.value_json))
    kept.runs = len(identities)
    return kept


def _wandb_records(data: bytes) -> Iterator[bytes]:
    """Records of W&B's file: those of LevelDB's log, behind a header of the file."""
    assert data[:4] == b":W&B"
    at, parts = WANDB_HEADER, []
    while at + WANDB_HEADER <= len(data):
        if (room := WANDB_BLOCK - at % WANDB_BLOCK) < WANDB_HEADER:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + WANDB_HEADER])
        if kind == 0:
            return
        parts.append(data[at + WANDB_HEADER : at + WANDB_HEADER + length])
        at += WANDB_HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def _dotted(values: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(values, dict):
        return {prefix.rstrip("."): _plain(values)}
    return {k: v for name, inside in values.items() for k, v in _dotted(inside, f"{prefix}{name}.").items()}


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


READERS = {"mlflow": read_mlflow, "tensorboard": read_tensorboard, "trackio": read_trackio, "wandb": read_wandb}
