"""TRL's own GRPO loss, called on given log-probabilities: the policy is a leaf tensor instead of a model."""

from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.support.models.token_batches import Sample


def trl_grpo_loss(samples: Sequence[Sample], **settings: Any) -> tuple[float, list[Tensor]]:
    """(loss, gradient by each sample's policy log-probabilities) of TRL 1.16 ``GRPOTrainer._compute_loss``."""
    from trl import GRPOTrainer

    policy = _right_padded([s.policy for s in samples]).requires_grad_()
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer.__dict__.update(_attributes(settings))
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (
        policy,
        settings.get("entropies", _right_padded([s.entropy for s in samples])),
        None,
    )
    loss = trainer._compute_loss(None, _inputs(samples, settings))
    loss.backward()
    gradient = [policy.grad[i, : s.tokens] for i, s in enumerate(samples)]
    return float(loss), gradient


def _inputs(samples: Sequence[Sample], settings: dict[str, Any]) -> dict[str, Tensor]:
    mask = _right_padded([s.mask for s in samples])
    old = "proximal" if settings.get("decoupled") else "behavior"
    inputs = {
        "prompt_ids": torch.ones(len(samples), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(samples), 1, dtype=torch.long),
        "completion_ids": torch.ones_like(mask, dtype=torch.long),
        "completion_mask": mask,
        "advantages": torch.tensor([s.advantage for s in samples], dtype=torch.float64),
        "old_per_token_logps": _right_padded([getattr(s, old) for s in samples]),
        "ref_per_token_logps": _right_padded([s.reference for s in samples]),
        "num_items_in_batch": mask.sum(),
    }
    if settings.get("decoupled"):
        rho = (inputs["old_per_token_logps"] - _right_padded([s.behavior for s in samples])).exp()
        inputs["importance_sampling_ratio"] = rho.clamp(max=settings["importance_cap"])
    return inputs


def _attributes(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": settings.get("off_policy_mask_threshold"),
        "importance_sampling_level": settings.get("level", "token"),
        "beta": settings.get("beta", 0.0),
        "loss_type": settings["loss_type"],
        "epsilon_low": settings.get("epsilon_low", 0.2),
        "epsilon_high": settings.get("epsilon_high", 0.28),
        "max_completion_length": settings.get("max_completion_length", 16),
        "args": SimpleNamespace(
            delta=settings.get("delta"),
            use_bias_correction_kl=settings.get("bias_correction", True),
            steps_per_generation=1,
        ),
        "use_vllm": bool(settings.get("decoupled")),
        "vllm_importance_sampling_correction": True,
        "model": SimpleNamespace(training=True),
        "current_gradient_accumulation_steps": 1,
        "accelerator": SimpleNamespace(
            num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x, sync_gradients=True
        ),
        "_entropy_bonus_enabled": "entropy_coef" in settings,
        "use_adaptive_entropy": False,
        "entropy_coef": settings.get("entropy_coef", 0.0),
        "aux_loss_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
    }


def _right_padded(values: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True)
