"""A small Qwen3 in float64, and one whole optimizer batch through it."""

import torch

from rlserve.algorithms import metrics
from rlserve.algorithms.logprobs import policy_outputs


def tiny_model(attention):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.3,
        attn_implementation=attention,
    )
    return Qwen3ForCausalLM(config).double()


def train_on(model, batch, algorithm):
    """(loss, gradients, metrics) over all micro-batches of all ranks."""
    model.zero_grad()
    loss, parts = 0.0, []
    for micro in (b for rank in batch.micro_batches for b in rank):
        logits = model(input_ids=micro.token_ids, position_ids=micro.position_ids, use_cache=False).logits
        out = algorithm.loss(policy_outputs(logits, micro), micro, batch.denominator)
        out.loss.backward()
        loss += float(out.loss.detach())
        parts.append(out.metrics)
    return loss, [p.grad.clone() for p in model.parameters()], metrics.results(metrics.merge(parts))
