"""``[model]``: the policy that is trained."""

from typing import Literal

from pydantic import Field

from rlserve.config.base import Section

Dtype = Literal["float32", "bfloat16"]


class ModelConfig(Section):
    """The policy that is trained."""

    path: str = ""
    """Hugging Face checkpoint directory, a run directory (its newest checkpoint), or a hub name. Empty: the run
    makes it by [pretrain] and [sft]."""
    max_length: int = Field(2048, ge=8)
    """Context in tokens, prompt and completion together."""
    tool_parser: str = Field("auto", min_length=1)
    """How the model writes tool calls: a parser of vLLM's (``hermes``, ``llama3_json``, ``mistral``, ``qwen3_coder``,
    ...); ``auto`` finds it by the chat template, ``none`` leaves calls to environments as text."""
