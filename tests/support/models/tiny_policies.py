"""Tiny random models as checkpoints and as published versions, and what Hugging Face computes for their samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlserve.records import PolicySpan, PolicyVersion
from rlserve.weight_sync.manifest import manifest_digest, spec_of

VOCABULARY = 64
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
Weights = dict[str, Tensor]


def tiny_model(family: str, *, tied: bool, seed: int = 0, **changes: Any) -> Any:
    """A random causal LM of about 1M parameters; ``family`` is ``"qwen3"`` or ``"llama"``."""
    import transformers

    torch.manual_seed(seed)
    name = {"qwen3": "Qwen3", "llama": "Llama"}[family]
    config = getattr(transformers, f"{name}Config")(**SHAPE | changes, tie_word_embeddings=tied)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("norm.weight", "bias")):  # all ones or zeros as made: a mix-up would not show
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def tiny_experts(directory: Path, *, seed: int = 0, **changes: Any) -> Any:
    """A random mixture of 4 experts in each of 2 layers, saved in ``directory`` and loaded from there.

    Loaded, since only then a model knows by which names the checkpoint has its experts.
    """
    import transformers

    torch.manual_seed(seed)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
    config = transformers.Qwen3MoeConfig(**SHAPE | experts | changes, tie_word_embeddings=False)
    transformers.Qwen3MoeForCausalLM(config).save_pretrained(directory)
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def weights_of(model: Any) -> Weights:
    """Copies of its tensors, tied ones once."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def perturbed(weights: Mapping[str, Tensor], *, seed: int, scale: float = 0.05) -> Weights:
    """Weights some way off, as after training."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + scale * tensor.std().nan_to_num(1.0) * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
    }


def biased_to(weights: Mapping[str, Tensor], token: int) -> Weights:
    """Weights of a tied model that say ``token`` whatever the context: blocks add nothing, one embedding is longer."""
    biased = {name: tensor.clone() for name, tensor in weights.items()}
    for name, tensor in biased.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()
        elif name.endswith("norm.weight"):
            tensor.fill_(1.0)
    rows = biased["model.embed_tokens.weight"]
    rows.copy_(torch.ones_like(rows) * 0.1)
    rows[token] *= 2.0
    return biased


def publish(weights: Mapping[str, Tensor], version: int, path: Path) -> PolicyVersion:
    """Write the flat file of a version and return its manifest."""
    published = [spec_of(name, tensor.contiguous()) for name, tensor in weights.items()]
    path.write_bytes(b"".join(content.tobytes() for _, content in published))
    specs = tuple(spec for spec, _ in published)
    return PolicyVersion(version=version, tensors=specs, digest=manifest_digest(specs))


@torch.no_grad()
def logprobs_under(model: Any, weights: Mapping[str, Tensor], prompt: Sequence[int], tokens: Any) -> Any:
    """``[S]`` log-probabilities of sampled tokens, all under the same weights, by one forward pass."""
    return replay(model, {0: weights}, prompt, tokens, [PolicySpan(0, len(tokens))])


@torch.no_grad()
def replay(
    model: Any,
    versions: Mapping[int, Mapping[str, Tensor]],
    prompt: Sequence[int],
    tokens: npt.NDArray[np.int64],
    spans: Sequence[PolicySpan],
) -> npt.NDArray[np.float32]:
    """``[S]`` log-probabilities when weights change at the spans' borders and the KV cache is kept across them."""
    from transformers import DynamicCache

    cache = DynamicCache()
    ids = [*prompt, *tokens.tolist()]
    seen, sampled = 0, len(prompt)
    found: list[Tensor] = []
    for span in spans:
        model.load_state_dict(versions[span.version], strict=False)
        end = sampled + span.length
        logits = model(torch.tensor([ids[seen : end - 1]]), past_key_values=cache).logits[0]
        chosen = logits.log_softmax(-1)[-span.length :]
        found.append(chosen.gather(-1, torch.tensor(ids[sampled:end]).unsqueeze(-1)).squeeze(-1))
        seen, sampled = end - 1, end
    result: npt.NDArray[np.float32] = torch.cat(found).numpy()
    return result
