"""An episode with tools: text of the policy to calls, calls to the environment, answers to the policy."""

import asyncio
from typing import Any

import pytest

from rlserve.actors.rollout.episodes.chat_turns import PolicyTurn, TurnPair, continuation
from rlserve.actors.rollout.episodes.episode import EpisodeWorker
from rlserve.actors.rollout.episodes.stream import EpisodeClient
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.config.tables.pretrain import TokenizerConfig
from rlserve.engines.base import SamplingChoice
from rlserve.engines.tool_calls import ToolCallReader
from rlserve.pretrain.tokenizer import train_tokenizer
from rlserve.records import FinishReason, Lease, Message, Outcome, Purpose, Task, Tool, ToolCall, Turn, Verdict
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.tokens.prompts import encode_prompt
from tests.support.episode_site import episode_site
from tests.support.models.scripted_engine import Call, ScriptedEngine

HERMES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n"
    "{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The check of Mistral's templates: without calls, a turn of the assistant must follow one of the user.
MISTRAL = (
    "{%- set ns = namespace(i=0) %}{%- for m in messages %}"
    "{%- if not (m.role == 'tool' or m.tool_calls is defined) %}"
    "{%- if (m.role == 'user') != (ns.i % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}"
    "{%- set ns.i = ns.i + 1 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{%- elif m.tool_calls is defined %}[TOOL_CALLS] {{ m.tool_calls | map(attribute='function') | list | tojson }}</s>"
    "{%- elif m.role == 'assistant' %}{{ m.content }}</s>"
    "{%- else %}[TOOL_RESULTS] {{ m.content }} {{ m.tool_call_id }}[/TOOL_RESULTS]{%- endif %}{%- endfor %}"
)
TOOLS = (Tool(name="add", parameters_json='{"type": "object"}'),)


def chat_tokenizer(template: str, end: str) -> Any:
    tokenizer = train_tokenizer(TokenizerConfig(type="bpe", vocab_size=300), ["some words"], max_length=512)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "[TOOL_CALLS]", end]})
    tokenizer.chat_template = template
    return tokenizer


class Adder:
    """Two numbers to add with a tool; right if the last text is their sum."""

    name, version, verifier, multi_turn = "adder", "1", "", True

    def __init__(self) -> None:
        self.said: list[tuple[str, tuple[ToolCall, ...]]] = []

    @property
    def splits(self) -> dict[str, int]:
        return {"train": 1}

    def task(self, split: str, index: int, seed: int) -> Task:
        return Task(
            environment=self.name,
            split=split,
            index=index,
            task_id="adder",
            prompt=(Message(role="user", content="3 + 4?"),),
            verifier="",
            payload=b"",
            seed=seed,
            multi_turn=True,
            tools=TOOLS,
        )

    def open(self, task: Task) -> "Adder":
        return self

    def step(self, text: str) -> Turn:
        self.said.append((text, ()))
        right = text == "7"
        return Turn(done=True, verdict=Verdict(outcome=Outcome.PASS if right else Outcome.FAIL, reward=float(right)))

    def call(self, text: str, calls: tuple[ToolCall, ...]) -> Turn:
        self.said.append((text, calls))
        answers = [(call.id, str(call.arguments["a"] + call.arguments["b"])) for call in calls]
        return Turn(messages=tuple(Message(role="tool", content=sum_, tool_call_id=at) for at, sum_ in answers))


@pytest.mark.parametrize("last", ["7", '<tool_call>{"name": "add", "argu'])
async def test_an_environment_gets_calls_as_data_and_malformed_ones_as_text(last: str) -> None:
    tokenizer = chat_tokenizer(HERMES, "<|im_end|>")
    tokens = ModelTokens.of(tokenizer)
    turns = ['<tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call>', last]

    def script(call: Call, number: int) -> list[int]:
        ids: list[int] = tokenizer.encode(turns[int(call.request_id[-1])] + "<|im_end|>", add_special_tokens=False)
        return ids

    adder, limits = Adder(), EpisodesConfig()
    task = adder.task("train", 0, 0)
    async with episode_site() as site, site.server("e", adder), asyncio.timeout(60):
        worker = EpisodeWorker(
            engine=ScriptedEngine(script=script),
            tokens=tokens,
            tool_calls=ToolCallReader("auto", tokenizer),
            run_episode=EpisodeClient(site.pool, limits),
            verify=None,  # type: ignore[arg-type]
            limits=limits,
            max_length=512,
        )
        prompt = encode_prompt(tokenizer, task, max_tokens=400)
        lease = Lease(
            group_id="g", environment="adder", split="train", index=0, seed=0, num_samples=1, purpose=Purpose.TRAIN
        )
        sampling = SamplingChoice(max_new_tokens=400)
        [trajectory] = await worker.trajectories(lease, task, prompt, sampling)
    (first, calls), second = adder.said
    assert (first, second) == (turns[0], (last, ()))
    assert [(call.name, call.arguments) for call in calls] == [("add", {"a": 3, "b": 4})]
    assert trajectory.verdict.reward == float(last == "7")
    assert "<|im_start|>tool\n7<|im_end|>" in tokenizer.decode(trajectory.token_ids)


def test_a_template_that_counts_turns_takes_several_calls_in_a_row() -> None:
    tokenizer = chat_tokenizer(MISTRAL, "</s>")
    task = Adder().task("train", 0, 0)

    def called(number: int) -> TurnPair:
        call = ToolCall(id=f"call0000{number}", name="add", arguments_json='{"a": 1}')
        answer = Message(role="tool", content=f"answer {number}", tool_call_id=call.id)
        text = '[TOOL_CALLS] [{"name": "add"}]'
        return TurnPair(PolicyTurn(text, FinishReason.STOP, (call,)), Turn(messages=(answer,)))

    end = tokenizer.convert_tokens_to_ids("</s>")
    ids = continuation(tokenizer, task, [called(0), called(1), called(2)], last_token=end)
    assert tokenizer.decode(ids) == "[TOOL_RESULTS] answer 2 call00002[/TOOL_RESULTS]"
