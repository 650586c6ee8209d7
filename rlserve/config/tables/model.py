"""``[model]``: the policy that is trained."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from rlserve.config.base import Section

Dtype = Literal["float32", "bfloat16"]
RENDERING = ("conversation", "messages", "tools", "tokenize", "add_generation_prompt", "continue_final_message")
"""Arguments of a chat template that a task and its rendering set."""


def _free(values: dict[str, Any]) -> dict[str, Any]:
    for name in values:
        if name in RENDERING:
            raise ValueError(f"chat_template_kwargs.{name}: is set for each task; leave it out")
    return values


TemplateArguments = Annotated[dict[str, Any], AfterValidator(_free)]


class ModelConfig(Section):
    """The policy that is trained."""

    path: str = ""
    """Hugging Face checkpoint directory, a run directory (its newest checkpoint), or a hub name. Empty: the run
    makes it by [pretrain] and [sft]."""
    max_length: int = Field(2048, ge=8)
    """Context in tokens, prompt and completion together."""
    chat_template_kwargs: TemplateArguments = Field(default_factory=dict)
    """Arguments of the model's chat template, e.g. ``{ enable_thinking = false }``; a template ignores those that it
    does not know."""
    tool_parser: str = Field("auto", min_length=1)
    """How the model writes tool calls: a parser of vLLM's (``hermes``, ``llama3_json``, ``mistral``, ``qwen3_coder``,
    ...); ``auto`` finds it by the chat template, ``none`` leaves calls to environments as text."""
