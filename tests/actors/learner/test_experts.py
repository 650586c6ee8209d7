"""A mixture of experts trains, and is published by the names of its checkpoint, a layer at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlserve.actors.learner.train import gather
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.ranks import Rank
from rlserve.algorithms import registry
from rlserve.config.algorithms.policy_gradient import ReinforceConfig
from rlserve.config.tables.learner import LearnerConfig
from rlserve.engines.vllm.readback import read_checked
from tests.support.models.learner_work import SMALL
from tests.support.models.tiny_policies import tiny_experts
from tests.support.processes.learner_rank import optimizer_batch, trainer_of


@pytest.mark.parametrize("stage", [0, 3])
def test_experts_are_published_by_the_names_of_the_checkpoint_a_layer_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    from transformers.core_model_loading import revert_weight_conversion

    start = tiny_experts(tmp_path / "start", **SMALL, moe_intermediate_size=48).state_dict()
    config = LearnerConfig(dtype="float32", weight_decay=0.0, zero_stage=stage)
    engine = LearnerEngine(str(tmp_path / "start"), config, seed=0)
    trainer = trainer_of(Rank(engine=engine, algorithm=registry.create(ReinforceConfig())), tmp_path)
    logits: list[list[torch.Tensor]] = [[], []]
    for layer, seen in zip(engine.module.model.layers, logits, strict=True):  # type: ignore[union-attr, arg-type]
        layer.mlp.gate.register_forward_hook(lambda _, given, found, seen=seen: seen.append(found[0].detach()))
    report = trainer.step(optimizer_batch(0, 1), lr=1e-2)
    counts = [torch.bincount(torch.cat(seen).topk(2).indices.flatten(), minlength=4) for seen in logits]
    assert report.updates == 1 and len(logits[0]) == 4, "micro-batches"
    assert report.expert_load == pytest.approx(max(float(found.max() / found.sum() * 4) for found in counts)) != 1
    with gather.gathered(list(engine.module.parameters())):
        trained = {name: tensor.detach().to(torch.bfloat16) for name, tensor in engine.module.named_parameters()}
    experts = "model.layers.1.mlp.experts.gate_up_proj"
    assert not torch.equal(trained[experts], start[experts].to(torch.bfloat16)), "experts are trained"
    expected = revert_weight_conversion(engine.module, trained)  # of the whole model at once
    assert "model.layers.1.mlp.experts.3.up_proj.weight" in expected and experts not in expected

    held, convert = list[int](), gather.in_checkpoint_names

    def counted(model: Any, named: gather.Named) -> gather.Named:
        found = convert(model, named)
        held.append(sum(tensor.numel() for _, tensor in found))
        return found

    monkeypatch.setattr(gather, "in_checkpoint_names", counted)
    trainer.publish(1)
    trainer.publishing.wait()
    kept = trainer.publisher.get(1)
    published = read_checked(kept.policy, kept.path)
    assert published.keys() == expected.keys()
    assert all(torch.equal(published[name], tensor) for name, tensor in expected.items())
    layers = sum(tensor.numel() for name, tensor in trained.items() if ".layers." in name)
    assert max(held) == layers // 2, "no more than one of two layers is converted at once"
    trainer.end_publishing()
