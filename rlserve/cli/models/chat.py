"""``rlserve chat MODEL``: talk to a checkpoint, by transformers in this process."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlserve.errors import InvalidRequest, RlserveError
from rlserve.library.measure import model_of
from rlserve.models.adapter_files import adapter_at, base_of
from rlserve.records import Message, Task
from rlserve.text_files import read_text

USER, NEW, QUIT = "> ", "/new", "/quit"
CONTEXT = 2048
"""Of a model whose configuration names none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "A model with a chat template keeps the conversation; any other continues each text as it is. /new begins "
        "another conversation, /quit or Ctrl-D ends. Without a terminal, standard input is one message."
    )
    parser.add_argument("model", help="a run directory (its newest checkpoint) or a checkpoint")
    parser.add_argument("--say", help="one message; print the answer and end")
    parser.add_argument("--system", default="", help="a system prompt, or @FILE with one")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer (default 256)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (default 0.7)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.max_new_tokens < 1:
        raise InvalidRequest(f"--max-new-tokens: is {arguments.max_new_tokens}; give at least 1")
    if arguments.temperature < 0:
        raise InvalidRequest(f"--temperature: is {arguments.temperature:g}; give 0 or more")
    system = arguments.system
    if system.startswith("@"):
        system = read_text(Path(system[1:]))
    model = model_of(Path(arguments.model))
    with redirect_stdout(sys.stderr):  # what libraries print while they load
        chat = Chat.load(model, system, max_new_tokens=arguments.max_new_tokens, temperature=arguments.temperature)
    if arguments.say is not None:
        chat.answer(arguments.say)
        return 0
    if not sys.stdin.isatty():
        chat.answer(sys.stdin.read().rstrip("\n"))
        return 0
    for text in _lines():
        if text == NEW:
            chat.forget()
            continue
        try:
            chat.answer(text)
        except RlserveError as error:
            print(f"{error}\n({NEW} begins another conversation)", file=sys.stderr)
    return 0


def _lines() -> Iterator[str]:
    while True:
        try:
            text = input(USER).strip()
        except EOFError:
            print()
            return
        if text == QUIT:
            return
        if text:
            yield text


@dataclass(slots=True, kw_only=True)
class Chat:
    """One conversation with a model."""

    model: Any
    tokens: Any
    system: str
    max_new_tokens: int
    temperature: float
    said: list[Message] = field(default_factory=list)

    @classmethod
    def load(cls, path: str, system: str, *, max_new_tokens: int, temperature: float) -> "Chat":
        """Load the model at ``path``, onto a GPU if there is one."""
        import torch
        from transformers import AutoModelForCausalLM

        from rlserve.tokens.model_tokens import ModelTokens

        model = AutoModelForCausalLM.from_pretrained(base_of(path), dtype="auto").eval()
        if adapter_at(path) is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, path).merge_and_unload()
        chat = cls(
            model=model.to("cuda" if torch.cuda.is_available() else "cpu"),
            tokens=ModelTokens.load(path),
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
        )
        chat.forget()
        return chat

    def forget(self) -> None:
        """Begin another conversation."""
        self.said = [Message(role="system", content=self.system)] if self.system else []

    def answer(self, text: str) -> str:
        """Print the model's answer as it comes, and return it. Raises TaskRefused when there is no room for it."""
        import torch
        from transformers import TextStreamer

        from rlserve.tokens.prompts import encode_prompt

        task = self._task(text)
        context = getattr(self.model.config, "max_position_embeddings", None) or CONTEXT
        prompt = encode_prompt(self.tokens.tokenizer, task, max_tokens=context - self.max_new_tokens)
        ids = torch.tensor([prompt.token_ids], device=self.model.device)  # [1, T]
        ends = list(self.tokens.ends_of(task))
        # top_k: transformers' default of 50 would be another distribution than the one that is trained.
        drawn = {"do_sample": True, "temperature": self.temperature, "top_k": 0} if self.temperature else {}
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.max_new_tokens,
                eos_token_id=ends or None,
                pad_token_id=ends[0] if ends else 0,
                streamer=TextStreamer(self.tokens.tokenizer, skip_prompt=True, skip_special_tokens=True),
                **drawn or {"do_sample": False},
            )
        said = str(self.tokens.text(out[0, ids.shape[1] :].tolist()))
        if not isinstance(task.prompt, str):
            self.said = [*self.said, Message(role="user", content=text), Message(role="assistant", content=said)]
        return said

    def _task(self, text: str) -> Task:
        from rlserve.tokens.chat import has_template

        prompt: Any = text
        if has_template(self.tokens.tokenizer):
            prompt = (*self.said, Message(role="user", content=text))
        return Task(environment="chat", split="", index=0, task_id="chat", prompt=prompt, verifier="", payload=b"")
