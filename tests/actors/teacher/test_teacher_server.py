"""A teacher over gRPC: same scores as the model, every bad request named, text with the ends of its tokens."""

from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlserve.actors.rollout.teachers import score_all
from rlserve.actors.teacher.main import teacher_server, weights_digest
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.errors import ConfigError, InvalidRequest, UnknownName
from rlserve.rpc.channel import open_channel, rpc_errors
from rlserve.tokens.tokenizer import fingerprint
from rlserve.v1 import task_pb2
from rlserve.v1 import teacher_service_pb2 as pb
from rlserve.v1 import teacher_service_pb2_grpc as pb_grpc
from tests.support.models.characters import ids, tokenizer
from tests.support.models.teachers import pairs_tokenizer, save_teacher

CONFIG = TeacherConfig(name="t", model="m", dtype="float32", max_length=64, max_k=8, tokens_per_batch=256)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_teacher(tmp_path_factory.mktemp("paired"), tokenizer=pairs_tokenizer())


@pytest.fixture
async def channel(checkpoint: str) -> AsyncIterator[Any]:
    async with teacher_server(CONFIG, checkpoint) as server, open_channel(server.address) as channel:
        yield channel


@pytest.fixture
async def paired_channel(paired: str) -> AsyncIterator[Any]:
    async with teacher_server(CONFIG, paired) as server, open_channel(server.address) as channel:
        yield channel


def request(text: str = "3+4=7;#7", **changes: Any) -> pb.ScoreRequest:
    given: dict[str, Any] = {
        "request_id": "r",
        "teacher": "t",
        "tokenizer_fingerprint": fingerprint(tokenizer()),
        "token_ids": ids(text),
        "first": 4,
        "count": len(ids(text)) - 4,
        "temperature": 1.0,
    }
    return pb.ScoreRequest(**given | changes)


def scored(answer: pb.ScoreResponse) -> Any:
    return np.frombuffer(answer.scores.logprobs, dtype="<f4")


async def ask(channel: Any, *requests: pb.ScoreRequest) -> dict[str, pb.ScoreResponse]:
    with rpc_errors("teacher"):
        return dict(await score_all(channel, requests, timeout=20, wait_for_ready=False))


async def test_many_requests_of_one_stream_are_answered_by_their_ids(channel: Any, checkpoint: str) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    texts = [f"{a}+{b}={a + b};#{a}" for a in range(20) for b in range(20)]
    answers = await ask(channel, *(request(text, request_id=text, k=2) for text in texts))
    assert set(answers) == set(texts)
    for text in texts[::57]:
        with torch.no_grad():
            logprobs = model(torch.tensor([ids(text)])).logits[0].log_softmax(-1)
        expected = [float(logprobs[i - 1, ids(text)[i]]) for i in range(4, len(ids(text)))]
        np.testing.assert_allclose(scored(answers[text]), expected, atol=1e-4)
        assert len(answers[text].scores.top_ids) == 4 * 2 * len(expected)


async def test_it_says_what_it_is(channel: Any, checkpoint: str) -> None:
    described = await pb_grpc.TeacherServiceStub(channel).Describe(pb.DescribeTeacherRequest())
    assert described.teacher == "t"
    assert described.tokenizer_fingerprint == fingerprint(tokenizer())
    assert described.weights_digest == weights_digest(checkpoint)
    assert (described.max_k, described.max_tokens) == (8, 64)
    assert described.vocabulary_size == len(tokenizer())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_id": ""}, "request_id: is empty"),
        ({"k": 9}, "k: is 9, but this teacher gives at most 8"),
        ({"temperature": 0.0}, "temperature: is 0"),
        ({"temperature": float("nan")}, "temperature: is nan"),
        ({"first": 0}, "first: is 0"),
        ({"count": 0}, "count: is 0"),
        ({"count": 2**32 - 1}, "count: is 4294967295 from 4"),
        ({"first": 2**32 - 1}, "count: is"),
        ({"token_ids": [5] * 65, "count": 1}, "token_ids: has 65 tokens, but this teacher takes 64"),
        ({"token_ids": [10**6] * 9, "count": 1}, r"token_ids\[0\]: is 1000000"),
        ({"tokenizer_fingerprint": "x"}, "tokenizer_fingerprint: is 'x'"),
        ({"completion_text": "7"}, "prompt_text: and conversation: give exactly one"),
    ],
)
async def test_a_bad_request_is_named(channel: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await ask(channel, request(), request(**changes))
    assert await ask(channel, request())  # and the server lives on


async def test_a_text_that_cannot_be_scored_is_refused_by_itself(paired_channel: Any) -> None:
    def asked(text: str) -> pb.ScoreRequest:
        return request(completion_text=text, request_id=text or "none", prompt_text="3+4=", token_ids=[])

    long = "12345678#;" * 20
    answers = await ask(paired_channel, asked("7"), asked(""), asked(long))
    assert "completion_text: is empty" in answers["none"].refused
    assert "this teacher takes 64" in answers[long].refused
    assert not answers["7"].refused
    assert len(scored(answers["7"])) == 1


async def test_another_teacher_is_not_found(channel: Any) -> None:
    with pytest.raises(UnknownName, match="teacher: 'other' is not served here"):
        await ask(channel, request(teacher="other"))


async def test_text_comes_back_with_the_ends_of_the_teachers_tokens(paired_channel: Any) -> None:
    text = "12+30=42;#2"
    asked = request(completion_text=text, prompt_text="12+30=", completion_ended=True, token_ids=[], first=0, count=0)
    answer = (await ask(paired_channel, asked))["r"]
    own = pairs_tokenizer()
    assert list(answer.token_ids) == [*own.encode(text, add_special_tokens=False), own.eos_token_id]
    ends = list(answer.end_offsets)
    assert ends == sorted(ends)
    assert ends[-2:] == [len(text), len(text)]
    pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert "".join(pieces) == text
    assert len(scored(answer)) == len(answer.token_ids) < len(text)


async def test_a_conversation_is_written_by_the_teacher(paired_channel: Any) -> None:
    messages = [task_pb2.Message(role="user", content="3+4=")]
    asked = request(completion_text="7", conversation=task_pb2.Conversation(messages=messages))
    answer = (await ask(paired_channel, asked))["r"]
    assert len(scored(answer)) == 1


async def test_arguments_of_the_configuration_reach_its_chat_template(tmp_path: Path) -> None:
    own = deepcopy(pairs_tokenizer())
    own.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ hint or '' }}"
    model = save_teacher(tmp_path, tokenizer=own)
    messages = task_pb2.Conversation(messages=[task_pb2.Message(role="user", content="3+4=")])
    chat = request(completion_text="7", request_id="chat", conversation=messages, token_ids=[])
    texts = [
        request(completion_text="7", request_id=text, prompt_text=text, token_ids=[]) for text in ("3+4=", "3+4=9;")
    ]
    for arguments, same in (({}, "3+4="), ({"hint": "9;"}, "3+4=9;")):
        config = CONFIG.model_copy(update={"chat_template_kwargs": arguments})
        async with teacher_server(config, model) as server, open_channel(server.address) as channel:
            answers = await ask(channel, chat, *texts)
        scores = {name: scored(answer).tolist() for name, answer in answers.items()}
        assert scores["chat"] == pytest.approx(scores[same], abs=1e-5)
        assert scores["3+4="] != pytest.approx(scores["3+4=9;"], abs=1e-3)


async def test_a_teacher_that_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teachers\.model: .* cannot be loaded"):
        async with teacher_server(CONFIG, str(tmp_path)):
            pass
