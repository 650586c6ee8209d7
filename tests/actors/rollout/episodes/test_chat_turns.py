"""What stands between two turns of the policy, by real tokenizers and chat templates."""

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
from odd_episodes import OddEnvironment

from rlserve.actors.rollout.episodes.chat_turns import PolicyTurn, TurnPair, continuation
from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.errors import InvalidRequest
from rlserve.pretrain.tokenizer import train_tokenizer
from rlserve.records import FinishReason, Message, Task, Tool, Turn
from rlserve.tokens.prompts import encode_prompt
from tests.support.models.characters import tokenizer as characters

CHATML = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As several families do: what was thought in earlier turns is left out.
FORGETFUL = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] | trim }}")
SILENT = CHATML.replace("{{ m.content }}", "{% if m.role != 'assistant' %}{{ m.content }}{% endif %}")
TEXTS = ["a question with words", "user assistant tool system", "think <think> </think> answer 42"]
TASK = OddEnvironment().task("train", 0, 0)
CHAT = replace(TASK, prompt=(Message(role="user", content="a question"),))


@lru_cache
def chat_tokenizer(template: str) -> Any:
    tokenizer = train_tokenizer(TokenizerConfig(type="bpe", vocab_size=300), TEXTS, max_length=512)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def turn_pair(text: str, *answers: Message, finish: FinishReason = FinishReason.STOP) -> TurnPair:
    return TurnPair(PolicyTurn(text, finish), Turn(messages=answers))


def user(content: str) -> Message:
    return Message(role="user", content=content)


def conversation(tokenizer: Any, task: Task, turn_pairs: list[TurnPair], *, cut: bool) -> str:
    """The text of all tokens: the policy writes its turns, and ends them itself unless it is cut."""
    ids = list(encode_prompt(tokenizer, task, max_tokens=500).token_ids)
    for number, said in enumerate(turn_pairs):
        sampled = tokenizer.encode(said.said.text + ("" if cut else "<|im_end|>"), add_special_tokens=False)
        ids += sampled
        ids += continuation(tokenizer, task, turn_pairs[: number + 1], last_token=sampled[-1])
    return str(tokenizer.decode(ids))


@pytest.mark.parametrize("cut", [False, True])
def test_a_conversation_turn_by_turn_is_what_the_template_writes_of_it_at_once(cut: bool) -> None:
    tokenizer = chat_tokenizer(CHATML)
    turn_pairs = [turn_pair("first words", user("a hint")), turn_pair("second", user("b"), user("c"))]
    messages = [
        {"role": "user", "content": "a question"},
        {"role": "assistant", "content": "first words"},
        {"role": "user", "content": "a hint"},
        {"role": "assistant", "content": "second"},
        {"role": "user", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # Encoding a template's text puts <bos> in front only in the prompt, never between turns.
    assert conversation(tokenizer, CHAT, turn_pairs, cut=cut).removeprefix("<bos>") == whole


def test_a_template_that_rewrites_earlier_turns_changes_no_token_of_them() -> None:
    tokenizer = chat_tokenizer(FORGETFUL)
    turn_pairs = [turn_pair("<think>much</think> 4", user("higher")), turn_pair("<think>more</think> 7", user("lower"))]
    text = conversation(tokenizer, CHAT, turn_pairs, cut=False)
    assert "<think>much</think> 4<|im_end|>\n<|im_start|>user\nhigher<|im_end|>\n<|im_start|>assistant\n" in text
    assert text.endswith("<think>more</think> 7<|im_end|>\n<|im_start|>user\nlower<|im_end|>\n<|im_start|>assistant\n")


def test_tools_are_told_in_the_prompt_and_not_again() -> None:
    tokenizer = chat_tokenizer(CHATML)
    task = replace(CHAT, tools=(Tool(name="calculator", parameters_json=json.dumps({"type": "object"})),))
    text = conversation(tokenizer, task, [turn_pair("c1+1=", Message(role="tool", content="2"))], cut=False)
    assert text.count("calculator") == 1
    assert text.endswith("c1+1=<|im_end|>\n<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n")


def test_a_message_that_looks_like_the_mark_is_not_taken_for_it() -> None:
    tokenizer = chat_tokenizer(CHATML)
    said = [turn_pair("policy-turn-0", user("policy-turn-0 policy-turn-1"))]
    assert conversation(tokenizer, CHAT, said, cut=False).endswith(
        "policy-turn-0<|im_end|>\n<|im_start|>user\npolicy-turn-0 policy-turn-1<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_that_hides_the_policys_turn_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="chat_template"):
        continuation(chat_tokenizer(SILENT), CHAT, [turn_pair("a", user("b"))], last_token=None)


def test_a_plain_prompt_is_followed_by_plain_text_even_if_there_is_a_template() -> None:
    for tokenizer in (characters(), chat_tokenizer(CHATML)):
        ids = continuation(tokenizer, TASK, [turn_pair("5", user(">"), user("3"))], last_token=None)
        assert tokenizer.decode(ids) == ">3"
    # The environment may begin with the very token that the policy ended with.
    eos = characters().eos_token_id
    assert continuation(characters(), TASK, [turn_pair("5", user("<eos>>"))], last_token=eos)[0] == eos


def test_without_a_template_chat_is_a_plain_transcript() -> None:
    tokenizer = train_tokenizer(TokenizerConfig(type="bpe", vocab_size=300), TEXTS, max_length=512)
    ids = continuation(tokenizer, CHAT, [turn_pair("4", user("higher"))], last_token=None)
    assert tokenizer.decode(ids) == "\nuser: higher\nassistant:"
