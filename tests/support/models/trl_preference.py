"""TRL's own preference losses, called with a model that returns given log-probabilities."""

from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.support.models.token_batches import Sample


def trl_dpo_loss(chosen: Sequence[Sample], rejected: Sequence[Sample], **settings: Any) -> tuple[float, list[Tensor]]:
    """(loss, gradient by each sample's policy log-probabilities, chosen first) of TRL 1.16 ``DPOTrainer``."""
    from trl import DPOTrainer

    samples = [*chosen, *rejected]
    policy = _after_prompt([s.policy for s in samples]).requires_grad_()
    mask = _after_prompt([torch.ones(s.tokens, dtype=torch.long) for s in samples])
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer.__dict__.update(_common(settings))
    trainer.__dict__.update(
        {
            "ld_alpha": None,
            "f_divergence_type": "reverse_kl",
            "loss_types": settings["loss_types"],
            "loss_weights": settings.get("loss_weights", [1.0]),
            "label_smoothing": 0.0,
            "use_weighting": False,
        }
    )
    reference = torch.stack([s.reference.sum() for s in samples])
    loss = trainer._compute_loss(
        _model(policy),
        {
            "input_ids": torch.ones_like(mask),
            "attention_mask": torch.ones_like(mask),
            "completion_mask": mask,
            "ref_chosen_logps": reference[: len(chosen)],
            "ref_rejected_logps": reference[len(chosen) :],
        },
        False,
    )
    loss.backward()
    return float(loss.detach()), [policy.grad[i, 1 : 1 + s.tokens] for i, s in enumerate(samples)]


def trl_kto_loss(samples: Sequence[Sample], good: Sequence[bool], kl: float, **settings: Any):
    """(loss, gradients) of TRL 1.16 ``KTOTrainer`` with the divergence ``kl`` given."""
    from trl import KTOTrainer

    policy = _after_prompt([s.policy for s in samples]).requires_grad_()
    mask = _after_prompt([torch.ones(s.tokens, dtype=torch.long) for s in samples])
    trainer = KTOTrainer.__new__(KTOTrainer)
    trainer.__dict__.update(_common(settings))
    trainer.__dict__.update(
        {
            "calculate_KL": settings["loss_type"] == "kto",
            "loss_type": settings["loss_type"],
            "desirable_weight": settings.get("desirable_weight", 1.0),
            "undesirable_weight": settings.get("undesirable_weight", 1.0),
        }
    )
    trainer._compute_kl_logps = lambda *_: torch.full((len(samples),), kl, dtype=torch.float64)
    loss = trainer._compute_loss(
        _model(policy),
        {
            "input_ids": torch.ones_like(mask),
            "attention_mask": torch.ones_like(mask),
            "completion_mask": mask,
            "label": torch.tensor(good),
            "ref_logps": torch.stack([s.reference.sum() for s in samples]),
            "ref_KL_logps": torch.zeros(len(samples), dtype=torch.float64),
        },
        False,
    )
    loss.backward()
    return float(loss.detach()), [policy.grad[i, 1 : 1 + s.tokens] for i, s in enumerate(samples)]


def trl_orpo_ratio_loss(chosen_mean: Tensor, rejected_mean: Tensor) -> Tensor:
    """log s(log-odds) of TRL's ``ORPOTrainer.odds_ratio_loss`` (which computes in float32)."""
    from trl.experimental.orpo import ORPOTrainer

    trainer = ORPOTrainer.__new__(ORPOTrainer)
    trainer.__dict__.update(_common({"beta": 1.0}))
    return trainer.odds_ratio_loss(chosen_mean, rejected_mean)[0]


def _model(logprobs: Tensor) -> Any:
    """Predicts all but the first token of a row, with these log-probabilities (0 outside completions)."""
    predicted = logprobs[:, 1:]
    zeros = torch.zeros_like(predicted)
    return lambda **_: SimpleNamespace(
        log_probs=predicted, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), log_sum_sq_probs=zeros
    )


def _common(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "beta": settings["beta"],
        "precompute_ref_logps": True,
        "aux_loss_enabled": False,
        "model": SimpleNamespace(training=True),
        "accelerator": SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "args": SimpleNamespace(),
    }


def _after_prompt(values: Sequence[Tensor]) -> Tensor:
    """One prompt token, then the values, padded on the right."""
    rows = [torch.cat([torch.zeros(1, dtype=v.dtype), v]) for v in values]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
