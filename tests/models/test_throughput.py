"""FLOPs and memory of a step."""

import pytest
import torch

from rlserve.models import throughput


def qwen(tied=True, **changes):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied}
    return Qwen3ForCausalLM(Qwen3Config(**shape | heads | changes, attn_implementation="eager"))


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_those_of_torchs_counter_oracle(tied):
    from torch.utils.flop_counter import FlopCounterMode

    model = qwen(tied)
    ids = torch.randint(0, 50, (2, 16))
    with FlopCounterMode(display=False) as measured:
        model(input_ids=ids).logits.sum().backward()
    ours = throughput.FlopCounter(model)(torch.tensor([16, 16]))
    # torch counts all pairs of tokens, ours those of the causal half; and norms are weights, but no product.
    pairs = 12 * 4 * 8 * 3 * 2 * 16 * 16
    norms = 6 * 32 * sum(p.numel() for n, p in model.named_parameters() if "norm" in n)
    assert ours + pairs / 2 - norms == pytest.approx(measured.get_total_flops(), rel=1e-6)


def test_a_frozen_weight_takes_two_thirds_oracle():
    from torch.utils.flop_counter import FlopCounterMode

    from rlserve.config.tables.learner import LoraConfig
    from rlserve.models.adapters import add_adapter

    model = qwen(num_hidden_layers=12)
    add_adapter(model, LoraConfig(rank=4))
    ids = torch.randint(0, 50, (2, 16))
    with FlopCounterMode(display=False) as measured:
        model(input_ids=ids).logits.sum().backward()
    pairs = 12 * 4 * 8 * 12 * 2 * 16 * 16
    ours = throughput.FlopCounter(model)(torch.tensor([16, 16])) + pairs / 2
    # The first layer's input has no gradient, which torch leaves out and we do not.
    assert ours == pytest.approx(measured.get_total_flops(), rel=0.02)


def test_of_routed_experts_those_visited_count():
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    shape = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "head_dim": 8, "moe_intermediate_size": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape | heads, num_experts=8, num_experts_per_tok=2))
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    rest = sum(p.numel() for n, p in model.named_parameters() if ".experts." not in n and "embed_tokens" not in n)
    assert experts == 8 * 3 * 32 * 16
    assert throughput.FlopCounter(model).weights == rest + experts / 4


def test_sequences_are_counted_without_padding():
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]])
    numbers = torch.tensor([[7, 7, 7, -1, -1], [3, 3, 5, 5, 5]])
    assert throughput.sequence_lengths(positions, numbers).tolist() == [3, 2, 3]
    assert throughput.sequence_lengths(positions, torch.full_like(numbers, -1)).tolist() == []


def test_a_cpu_has_no_known_peak_but_memory():
    assert throughput.peak_flops(torch.device("cpu"), torch.bfloat16) == 0
    before = throughput.peak_bytes(torch.device("cpu"))
    held = torch.ones(64 * 2**20, dtype=torch.uint8).clone()
    assert throughput.peak_bytes(torch.device("cpu")) >= before > 0 and len(held)
