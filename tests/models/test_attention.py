"""Packed rows under "varlen": against rows of their own, and against transformers' attentions."""

import pytest
import torch

from rlserve.errors import ConfigError
from rlserve.models.attention import Sequences, _gpu_kernel, choose, register, varlen_attention

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LENGTHS = (5, 1, 8, 3)
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}  # transformers computes norms, angles and the softmax in it


def tiny(attention, family="Qwen3", **changes):
    import transformers

    register(CPU)
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "pad_token_id": 0}
    config = getattr(transformers, f"{family}Config")(**shape | heads | changes, attn_implementation=attention)
    return getattr(transformers, f"{family}ForCausalLM")(config).double().eval()


def inputs(lengths=LENGTHS):
    torch.manual_seed(1)
    ids = torch.randint(0, 40, (1, sum(lengths)))
    return ids, torch.cat([torch.arange(n) for n in lengths])[None]


def gradients(model, logits):
    model.zero_grad()
    logits.square().sum().backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize(
    ("family", "changes"),
    [("Qwen3", {}), ("Llama", {}), ("Mistral", {"sliding_window": 3})],
)
def test_a_packed_row_is_as_its_sequences_alone_oracle(family, changes):
    ids, positions = inputs()
    packed, alone = tiny("varlen", family, **changes), tiny("eager", family, **changes)
    starts = Sequences.of(positions).arguments(CPU)
    got = packed(input_ids=ids, position_ids=positions, use_cache=False, **starts).logits
    expected = torch.cat([alone(input_ids=part).logits for part in ids.split(LENGTHS, dim=1)], dim=1)
    torch.testing.assert_close(got, expected, **FLOAT32)
    for left, right in zip(gradients(packed, got), gradients(alone, expected), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5 * float(right.abs().max()))


def test_padded_rows_are_sequences_of_their_own():
    ids = torch.randint(0, 40, (3, 6))
    starts = Sequences.of(torch.arange(6).expand(3, 6).contiguous())
    assert (starts.starts.tolist(), starts.longest) == ([0, 6, 12, 18], 6)
    got = tiny("varlen")(input_ids=ids, **starts.arguments(CPU)).logits
    torch.testing.assert_close(got, tiny("eager")(input_ids=ids).logits, **FLOAT32)


def test_a_row_that_begins_in_the_middle_of_a_sequence_is_one():
    assert Sequences.of(torch.tensor([[3, 4, 0, 1], [7, 8, 9, 10]])).starts.tolist() == [0, 2, 4, 8]


def test_what_the_kernel_does_not_know_is_refused():
    q = torch.zeros(1, 2, 4, 8)
    starts = torch.tensor([0, 4], dtype=torch.int32)
    for more in ({"softcap": 30.0}, {"s_aux": torch.zeros(2)}):
        with pytest.raises(ConfigError, match=r"learner\.attention: 'varlen' knows no caps"):
            varlen_attention(None, q, q, q, None, run=None, cu_seq_lens_q=starts, max_length_q=4, **more)


def test_the_attention_follows_from_device_and_rows():
    assert choose("", packing=False, dtype="bfloat16", device=GPU) == "sdpa"
    assert choose("", packing=True, dtype="bfloat16", device=GPU) == "varlen"
    assert choose("", packing=True, dtype="bfloat16", device=CPU) == "sdpa"
    assert choose("kernels-community/flash-attn3", packing=True, dtype="bfloat16", device=GPU).startswith("kernels")
    for name in ("sdpa", "eager"):
        assert choose(name, packing=True, dtype="float32", device=CPU) == name
        with pytest.raises(ConfigError, match=r"learner\.attention: '\w+' makes a mask"):
            choose(name, packing=True, dtype="bfloat16", device=GPU)
    with pytest.raises(ConfigError, match="mask of tokens by tokens"):
        choose("", packing=True, dtype="float32", device=GPU)
    with pytest.raises(ConfigError, match="computes in bfloat16"):
        choose("varlen", packing=False, dtype="float32", device=GPU)


def test_the_kernel_of_a_gpu_is_asked_for_causal_groups(monkeypatch):
    """Its argument names differ between versions of torch; the kernel itself needs a GPU."""
    from torch.nn.attention import varlen

    for names in ("enable_gqa", "other"):
        calls = []
        arguments = f"q, k, v, a, b, c, d, *, scale=None, window_size=None, {names}=False"
        code = f"def kernel({arguments}): calls.append(locals())"
        made = {"calls": calls}
        exec(code, made)  # a function with these names in its signature
        monkeypatch.setattr(varlen, "varlen_attn", made["kernel"])
        run = _gpu_kernel()
        q, starts = torch.zeros(4, 2, 8), torch.tensor([0, 4])
        run(q, q, q, starts, 4, 0.5, None)
        run(q, q, q, starts, 4, 0.5, 3)
        assert [call["window_size"] for call in calls] == [(-1, 0), (2, 0)]
        assert all(call[names] == (names == "enable_gqa") for call in calls)
