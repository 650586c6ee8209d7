"""In a process of its own: a tiny model as vLLM builds and loads it, without packing for the CPU; then two swaps.

To be imported after ``prepare_environment``: importing it imports vLLM.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.utils import initialize_model

from rlserve.engines.vllm.staged_weights import InitInfo, Staged, StagedWeightEngine, UpdateInfo
from rlserve.records import PolicyVersion
from rlserve.weight_sync.publisher import Publisher
from tests.support.models.tiny_policies import publish


class Model:
    """One checkpoint, or one rank's part of it, loaded by vLLM's own loader as often as is asked."""

    def __init__(self, path: str, directory: Path, rank: int = 0, ranks: int = 1) -> None:
        self.config = EngineArgs(
            model=path, dtype="bfloat16", max_model_len=128, skip_tokenizer_init=True, tensor_parallel_size=ranks
        ).create_engine_config()
        torch.set_default_dtype(torch.bfloat16)
        if not torch.distributed.is_initialized():
            with set_current_vllm_config(self.config):
                init_distributed_environment(ranks, rank, f"file://{directory}/rendezvous", rank, "gloo")
                initialize_model_parallel(ranks, 1)

    def built(self, weights: dict[str, torch.Tensor] | None = None) -> Any:
        self.config.compilation_config.static_forward_context.clear()  # names of the layers of another model
        with set_current_vllm_config(self.config):
            model: Any = initialize_model(vllm_config=self.config, model_config=self.config.model_config)
            model.load_weights((weights or self.checkpoint(model)).items())
        return model

    def checkpoint(self, model: Any) -> dict[str, torch.Tensor]:
        loader: Any = get_model_loader(self.config.load_config)
        found = loader.get_all_weights(self.config.model_config, model)
        return {name: tensor.to(torch.bfloat16) for name, tensor in found}


def swap_twice(path: str, directory: Path) -> dict[str, Any]:
    """The parameters and the digests afterwards."""
    source = Model(path, directory)
    model = source.built()
    start = source.checkpoint(model)
    # Any device but "cpu" takes the way of accelerators; the copies themselves are from host to host here.
    engine: Any = StagedWeightEngine(SimpleNamespace(), source.config, SimpleNamespace(type="accelerator"), model)  # type: ignore[arg-type]
    engine.init_transfer_engine(InitInfo())
    if engine.method != "copy":
        return {"method": engine.method}
    engine._direct.device = torch.device("cpu")
    addresses = {name: p.data_ptr() for name, p in model.named_parameters()}
    rooms, same, digests = set(), [], []
    for version in (1, 2):
        weights = {name: tensor + torch.randn_like(tensor) for name, tensor in start.items()}
        policy = publish(weights, version, directory / "weights.bin")
        before = {name: p.clone() for name, p in model.named_parameters()}
        assert staged(engine, policy, directory)["outcome"] == "done"
        rooms.add(engine._direct._room.data_ptr())
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        engine.start_weight_update()
        engine.receive_weights(UpdateInfo(version=version))
        engine.finish_weight_update()
        digests.append(digested(engine) == policy.digest)
        oracle = dict(source.built(weights).named_parameters())
        same.append(all(torch.equal(p, oracle[name]) for name, p in model.named_parameters()))
        same[-1] &= not any(torch.equal(p, before[name]) for name, p in model.named_parameters())
    # What is digested is what is served, not what was staged.
    dict(model.named_parameters())["model.norm.weight"].data[0] += 1
    engine._served = Staged(policy, weights, [])
    damaged = digested(engine)
    shared = by_memory(engine, model, source, start, directory)
    whole = publish(weights, 3, directory / "weights.bin")
    content = bytearray((directory / "weights.bin").read_bytes())
    content[-1] ^= 1
    (directory / "weights.bin").write_bytes(content)
    flipped = staged(engine, whole, directory)
    fewer = publish(dict(list(weights.items())[1:]), 3, directory / "weights.bin")
    return {
        "shared": shared,
        "flipped": flipped,
        "method": engine.method,
        "fused": [name for name, _ in model.named_parameters() if "qkv_proj" in name or "gate_up_proj" in name],
        "same": same,
        "digests": digests,
        "rooms": len(rooms),
        "addresses": addresses == {name: p.data_ptr() for name, p in model.named_parameters()},
        "damage": damaged != policy.digest,
        "missing": staged(engine, fewer, directory),
    }


def swap_part(path: str, directory: Path, rank: int, ranks: int) -> dict[str, Any]:
    """As ``swap_twice``, once, on one of several ranks; both make the same weights."""
    source = Model(path, directory, rank, ranks)
    model = source.built()
    engine: Any = StagedWeightEngine(SimpleNamespace(), source.config, SimpleNamespace(type="accelerator"), model)  # type: ignore[arg-type]
    engine.init_transfer_engine(InitInfo())
    if engine.method != "copy":
        return {"method": engine.method}
    engine._direct.device = torch.device("cpu")
    generator = torch.Generator().manual_seed(1)
    start = source.checkpoint(model)
    weights = {n: t + torch.randn(t.shape, generator=generator).to(t.dtype) for n, t in sorted(start.items())}
    place = directory / f"rank-{rank}"
    place.mkdir(exist_ok=True)
    policy = publish(weights, 1, place / "weights.bin")
    addresses = {name: p.data_ptr() for name, p in model.named_parameters()}
    assert staged(engine, policy, place)["outcome"] == "done", engine.staging.state()
    engine.start_weight_update()
    engine.receive_weights(UpdateInfo(version=1))
    engine.finish_weight_update()
    share = json.loads(digested(engine))
    oracle = dict(source.built(weights).named_parameters())
    # A parameter that only this rank holds, and one that all hold: damage to either must show.
    damage = {}
    for name in ("model.layers.0.self_attn.o_proj.weight", "model.norm.weight"):
        dict(model.named_parameters())[name].data.view(-1)[0] += 1
        damage[name] = engine._direct.shares(policy)
        dict(model.named_parameters())[name].data.copy_(oracle[name])
    return {
        "method": engine.method,
        "same": all(torch.equal(p, oracle[name]) for name, p in model.named_parameters()),
        "addresses": addresses == {name: p.data_ptr() for name, p in model.named_parameters()},
        "policy": asdict(policy),
        "share": share,
        "damage": damage,
        "held_bytes": sum(p.nbytes for p in model.parameters()),
        "room": engine._direct._room.numel(),
    }


def by_memory(engine: Any, model: Any, source: Model, start: dict[str, torch.Tensor], directory: Path) -> Any:
    """A version that the learner has in memory is copied from there in the pause; until then it stays as it is."""
    publisher = Publisher(directory, run_id="r")
    publisher._memory._wanted = engine.memory_device
    weights = {name: tensor + torch.randn_like(tensor) for name, tensor in start.items()}
    policy = publisher.publish(weights.items(), 1)
    memory = publisher.memory_of(publisher.get(1), engine.memory_device)
    engine.stage(asdict(policy), publisher.get(1).path, memory)
    while not engine.staging.is_done:
        time.sleep(0.01)
    room_is_free = engine._direct._room is None
    publisher.publish(start.items(), 2)
    found = {"kept": publisher.memory_of(publisher.get(2), engine.memory_device) is None, "room": room_is_free}
    engine.start_weight_update()
    engine.receive_weights(UpdateInfo(version=1))
    engine.finish_weight_update()
    found["digest"] = digested(engine) == policy.digest
    oracle = dict(source.built(weights).named_parameters())
    found["same"] = all(torch.equal(p, oracle[name]) for name, p in model.named_parameters())
    publisher.publish(start.items(), 3)
    found["freed"] = publisher.memory_of(publisher.get(3), engine.memory_device) == memory
    publisher.close()
    return found


def staged(engine: Any, policy: PolicyVersion, directory: Path) -> Any:
    engine.stage(asdict(policy), directory / "weights.bin")
    while not engine.staging.is_done:
        time.sleep(0.01)
    return engine.staging.state()


def digested(engine: Any) -> str:
    engine.begin_digest()
    while not engine.digesting.is_done:
        time.sleep(0.01)
    return str(engine.digesting.state()["result"])
