"""A teacher that cannot be used is named before training starts."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.discovery.starting import announced
from rlserve.actors.hub.main import hub_server
from rlserve.actors.learner.teacher_check import check_teachers, problems
from rlserve.actors.teacher.main import teacher_server
from rlserve.config.load import load_run
from rlserve.config.run import RunConfig
from rlserve.errors import ConfigError, DeadlineExceeded
from rlserve.records import Actor, ActorKind
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.v1 import teacher_service_pb2 as pb
from tests.support.models.characters import tokenizer
from tests.support.models.teachers import pairs_tokenizer, save_teacher

RUN = [
    "name=x",
    "model.path=m",
    "model.max_length=64",
    "rollout.max_new_tokens=32",
    'environments=[{name="arithmetic"}]',
]
TEACHER = 'teachers=[{name="t", model="m", max_length=64}]'


def run(*overrides: str) -> RunConfig:
    return load_run([], [*RUN, *overrides])


def described(**changes: Any) -> pb.DescribeTeacherResponse:
    return pb.DescribeTeacherResponse(
        **{"teacher": "t", "tokenizer_fingerprint": "same", "max_k": 8, "max_tokens": 64} | changes
    )


@pytest.mark.parametrize(
    ("algorithm", "changes", "message"),
    [
        ("algorithm={type='distill'}", {}, None),
        ("algorithm={type='distill'}", {"tokenizer_fingerprint": "other"}, None),
        ("algorithm={type='distill', estimator='top_k', k=8}", {}, None),
        (
            "algorithm={type='distill', estimator='top_k', k=9}",
            {},
            "algorithm.k: is 9, but teacher 't' gives at most 8",
        ),
        ("algorithm={type='distill', estimator='top_k', k=8}", {"tokenizer_fingerprint": "other"}, None),
        ("algorithm={type='distill'}", {"max_tokens": 63}, "model.max_length: is 64, but teacher 't' takes 63"),
    ],
)
def test_what_it_serves_is_held_against_what_is_asked(
    algorithm: str, changes: dict[str, Any], message: str | None
) -> None:
    config = run(TEACHER, algorithm)
    found = problems(config, config.teachers[0], described(**changes), "same")
    assert (found == []) if message is None else (message in found[0])


def test_a_reference_must_have_the_policys_tokenizer() -> None:
    config = run(TEACHER, "algorithm={type='dpo'}", "reference.teacher=t")
    (found,) = problems(config, config.teachers[0], described(tokenizer_fingerprint="other"), "same")
    assert "reference.teacher: 't' has another tokenizer than the policy" in found


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.type=distill"], "teachers: there are none"),
        ([TEACHER, "algorithm.type=distill", "model.max_length=65"], "teachers.max_length: of 't' is 64"),
        (['teachers=[{name="t"}]'], "teachers.model: is empty for 't'"),
        (['teachers=[{name="t", model="m"}, {name="t", model="n"}]'], "teachers: 't' is there twice"),
        (['teachers=[{name="t", model="m", environments=["gsm8k"]}]'], "names 'gsm8k'; known are arithmetic"),
        (['teachers=[{name="t", model="m", tokens_per_batch=9}]'], "teachers.tokens_per_batch: is 9"),
        (["reference.teacher=t"], r"reference.teacher: is 't', which is not in \[\[teachers\]\]"),
        ([TEACHER, "reference.teacher=t", "reference.refresh_every_syncs=2"], "the served reference 't' never changes"),
        (
            [TEACHER, "algorithm={type='distill', estimator='top_k', k=65}"],
            "algorithm.k: is 65, but teacher 't' gives at most teachers.max_k = 64",
        ),
        (
            ['teachers=[{name="t", model="m", engine="vllm"}]', "algorithm.type=distill", "rollout.temperature=0.7"],
            "which scores at temperature 1, but 0.7 is asked for",
        ),
        ([TEACHER, "reference.teacher=t", "algorithm.type=distill"], "teachers: there are none"),
    ],
)
def test_the_configuration_says_what_does_not_fit(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*overrides)


async def test_a_teacher_that_does_not_come_is_named() -> None:
    config = run(TEACHER, "algorithm.type=distill", "launch.start_seconds=0.5")
    async with hub_server("127.0.0.1:0", 1.0) as hub, HubClient(hub.address) as client:
        with pytest.raises(DeadlineExceeded, match="teacher: none that serves 't' joined"):
            await asyncio.wait_for(
                check_teachers(config, client, tokens=ModelTokens.of(tokenizer()), vocab_size=len(tokenizer())), 10
            )


async def test_a_teacher_that_starts_is_waited_for() -> None:
    config = run(TEACHER, "algorithm.type=distill", "launch.start_seconds=0.2")
    actor = Actor(actor_id="t-0", kind=ActorKind.TEACHER, address="127.0.0.1:1", incarnation="first", serves=("t",))
    tokens = ModelTokens.of(tokenizer())
    async with hub_server("127.0.0.1:0", 1.0) as hub, HubClient(hub.address) as client:
        async with announced(hub.address, actor, lambda: "loads its model"):
            while not await client.list_actors(ActorKind.STARTING):
                await asyncio.sleep(0.01)
            checking = asyncio.create_task(check_teachers(config, client, tokens=tokens, vocab_size=len(tokenizer())))
            done, _ = await asyncio.wait({checking}, timeout=1.0)
            assert not done
        with pytest.raises(DeadlineExceeded, match="teacher: none that serves 't' joined"):
            await asyncio.wait_for(checking, 10)


async def test_the_policys_own_tokens_are_known_where_a_top_k_is_matched(tmp_path: Path) -> None:
    config = run(TEACHER, "algorithm={type='distill', estimator='top_k', k=8}")
    model = save_teacher(tmp_path / "pairs", tokenizer=pairs_tokenizer())
    teacher = config.teachers[0].model_copy(update={"dtype": "float32"})
    async with (
        hub_server("127.0.0.1:0", 3.0) as hub,
        HubClient(hub.address) as client,
        teacher_server(teacher, model) as server,
    ):
        actor = Actor(
            actor_id="t-0",
            kind=ActorKind.TEACHER,
            address=server.address,
            incarnation="i",
            host="h",
            pid=1,
            serves=("t",),
        )
        async with client.registered(actor):
            unshared = await check_teachers(
                config, client, tokens=ModelTokens.of(tokenizer()), vocab_size=len(tokenizer())
            )
    assert unshared is not None
    # Byte pairs hold every single character, and the end; the other special tokens have no counterpart.
    own = tokenizer()
    ends = own.eos_token_id
    assert np.flatnonzero(unshared).tolist() == sorted(set(own.all_special_ids) - {ends})
