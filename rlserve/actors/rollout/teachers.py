"""Asks teacher servers for log-probabilities of sampled tokens, and maps them onto the policy's tokens.

A teacher with the policy's tokenizer receives token ids. A teacher with another one receives the text, and its tokens
are aligned with the policy's where both end at the same byte. When a teacher gives no scores, the trajectory stays
without: the learner counts it as ``no_teacher`` and never trains on an invented number.
"""

import functools
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt

from rlserve.actors.discovery.pool import EndpointPool
from rlserve.config.algorithms.distillation import DistillConfig
from rlserve.config.run import RunConfig
from rlserve.config.tables.teacher import TeacherConfig
from rlserve.errors import InvalidRequest, PluginFailed, RlserveError
from rlserve.records import Lease, Message, Purpose, SegmentKind, Task, TeacherScores, Trajectory
from rlserve.rpc import codec
from rlserve.rpc.codec.check import MIN_LOGPROB
from rlserve.tokens.alignment import Span, align, span_scores
from rlserve.tokens.model_tokens import ModelTokens, is_chat
from rlserve.tokens.shared_tokens import shared_token_ids
from rlserve.tokens.tokenizer import fingerprint
from rlserve.v1 import task_pb2
from rlserve.v1 import teacher_service_pb2 as pb
from rlserve.v1 import teacher_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)
MAX_CAUSES = 64
"""Distinct causes that are logged: teachers are few, and a fault with endless variants must not fill the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRequest:
    """What to ask one teacher about a trajectory."""

    teacher: TeacherConfig
    k: int
    temperature: float | None
    """None stands for the temperature at which each trajectory was sampled."""

    def temperature_of(self, trajectory: Trajectory) -> float:
        """The temperature at which the trajectory is scored."""
        return trajectory.scored_temperature if self.temperature is None else self.temperature


@dataclass(frozen=True, slots=True)
class TeacherRequests:
    """Which teachers a group is sent to: one of those to distil from, and the served reference."""

    teachers: tuple[TeacherConfig, ...]
    distill: DistillConfig | None
    reference: TeacherConfig | None

    @classmethod
    def of(cls, config: RunConfig) -> "TeacherRequests":
        """The teachers of a run."""
        named = {teacher.name: teacher for teacher in config.teachers}
        # Taken out: it is asked about every group, and is no choice of the draw.
        reference = named.pop(config.reference.teacher, None)
        return cls(tuple(named.values()), config.distillation, reference)

    def for_lease(self, lease: Lease) -> list[TeacherRequest]:
        """One teacher drawn by weight among those of the lease's environment, and the reference.

        The draw follows from the lease's seed, so a lease that is granted again is scored by the same teacher.
        """
        asked = []
        able = [t for t in self.teachers if not t.environments or lease.environment in t.environments]
        if self.distill is not None and able:
            chosen = Random(lease.seed).choices(able, [teacher.weight for teacher in able])[0]
            top = self.distill.estimator == "top_k"
            temperature = self.distill.temperature if top else None
            asked.append(TeacherRequest(teacher=chosen, k=self.distill.k if top else 0, temperature=temperature))
        if self.reference is not None:
            asked.append(TeacherRequest(teacher=self.reference, k=0, temperature=None))
        return asked


class TeacherClient:
    """Scores of a group's trajectories, from whichever server of a teacher is alive.

    Example::

        score = TeacherClient(pool, tokens, TeacherRequests.of(config))
        trajectories = await score(lease, task, trajectories)
    """

    def __init__(self, pool: EndpointPool, tokens: ModelTokens, requests: TeacherRequests) -> None:
        self._pool = pool
        self._tokens = tokens
        self._fingerprint = fingerprint(tokens.tokenizer)
        self._requests = requests
        self._described: dict[str, pb.DescribeTeacherResponse] = {}
        self._text = tokens.as_text()
        self._shared_ids: dict[str, npt.NDArray[np.int64]] = {}
        self._logged: set[str] = set()
        self.failures = 0
        """Trajectories left without scores."""

    async def __call__(self, lease: Lease, task: Task, trajectories: Sequence[Trajectory]) -> tuple[Trajectory, ...]:
        """The trajectories with ``teacher_scores``, or unchanged when the run has no teacher for them."""
        scored = tuple(trajectories)
        if lease.purpose is Purpose.TRAIN:
            for asked in self._requests.for_lease(lease):
                scored = await self._ask(asked, task, scored)
        return scored

    async def _ask(
        self, asked: TeacherRequest, task: Task, trajectories: tuple[Trajectory, ...]
    ) -> tuple[Trajectory, ...]:
        name = asked.teacher.name
        try:
            teacher = await self._describe(asked.teacher)
            same = teacher.tokenizer_fingerprint == self._fingerprint
            if asked.k and not same:
                await self._fetch_vocabulary(asked.teacher)
            make = functools.partial(self._by_ids if same else self._by_text, asked, task)
            # A trajectory that cannot be scored is not sent: a bad request would end the stream of all.
            able = {str(i): t for i, t in enumerate(trajectories) if self._can_be_asked(task, t, teacher, same=same)}
            requests = {i: make(i, t) for i, t in able.items()}
            answers = await self._score(asked.teacher, list(requests.values())) if requests else {}
        except RlserveError as error:
            self._failed(name, error, len(trajectories))
            return trajectories
        to_policy_tokens = self._by_token if same else self._by_span
        found = {}
        for i, trajectory in able.items():
            try:
                found[int(i)] = to_policy_tokens(_scored(answers[i]), trajectory)
            except InvalidRequest as error:  # this trajectory alone; the others keep their scores
                self._failed(name, error, 1)
        return tuple(
            replace(t, teacher_scores=(*t.teacher_scores, found[i])) if i in found else t
            for i, t in enumerate(trajectories)
        )

    def _failed(self, name: str, error: RlserveError, count: int) -> None:
        """Count trajectories without scores, and log each cause once. Texts that differ in numbers are one cause."""
        self.failures += count
        text = f"{type(error).__name__}: {error}"
        cause = re.sub(r"\d+", "#", f"{name}: {text}")
        if cause not in self._logged and len(self._logged) < MAX_CAUSES:
            self._logged.add(cause)
            logger.warning("teacher %r gave no scores: %s; further ones of this kind are not logged", name, text)

    def _can_be_asked(
        self, task: Task, trajectory: Trajectory, teacher: pb.DescribeTeacherResponse, *, same: bool
    ) -> bool:
        """Whether the teacher can score it: ids within its embedding, or bytes that are text."""
        if not trajectory.num_sampled:
            return False
        if same:
            return int(trajectory.token_ids.max()) < teacher.vocabulary_size
        ids = trajectory.token_ids[trajectory.sampled_mask].tolist()
        # Bytes that are no UTF-8 may leave an empty text, which without an end has no token to score.
        return ids[-1] in self._tokens.ends_of(task) or bool(self._text.text(ids))

    async def _describe(self, teacher: TeacherConfig) -> pb.DescribeTeacherResponse:
        known = self._described.get(teacher.name)
        if known is None:
            known = self._described[teacher.name] = await self._pool.call(
                lambda channel: pb_grpc.TeacherServiceStub(channel).Describe,
                pb.DescribeTeacherRequest(),
                serves=teacher.name,
                deadline_seconds=teacher.score_seconds,
            )
        return known

    async def _fetch_vocabulary(self, teacher: TeacherConfig) -> None:
        """Fetch the teacher's vocabulary and find the policy's token for each entry, once."""
        if teacher.name in self._shared_ids:
            return
        vocabulary = await self._pool.call(
            lambda channel: pb_grpc.TeacherServiceStub(channel).Vocabulary,
            pb.VocabularyRequest(),
            serves=teacher.name,
            deadline_seconds=teacher.score_seconds,
        )
        self._shared_ids[teacher.name] = shared_token_ids(vocabulary, self._text)

    async def _score(
        self, teacher: TeacherConfig, requests: Sequence[pb.ScoreRequest]
    ) -> Mapping[str, pb.ScoreResponse]:
        return await self._pool.call(
            lambda channel: functools.partial(score_all, channel),
            requests,
            serves=teacher.name,
            deadline_seconds=teacher.score_seconds,
        )

    def _by_ids(self, asked: TeacherRequest, task: Task, request_id: str, trajectory: Trajectory) -> pb.ScoreRequest:
        # argmax of a mask is its first True.
        first = int(np.argmax(trajectory.sampled_mask))
        return pb.ScoreRequest(
            request_id=request_id,
            teacher=asked.teacher.name,
            tokenizer_fingerprint=self._fingerprint,
            token_ids=trajectory.token_ids.tolist(),
            first=first,
            count=len(trajectory.token_ids) - first,
            k=asked.k,
            temperature=asked.temperature_of(trajectory),
        )

    def _by_text(self, asked: TeacherRequest, task: Task, request_id: str, trajectory: Trajectory) -> pb.ScoreRequest:
        if sum(s.kind is SegmentKind.SAMPLED for s in trajectory.segments) != 1:
            raise InvalidRequest(
                f"teachers: {asked.teacher.name!r} has another tokenizer than the policy, and the episode of "
                f"{task.task_id!r} has several turns; take a teacher with the policy's tokenizer"
            )
        ids = trajectory.token_ids[trajectory.sampled_mask].tolist()
        return pb.ScoreRequest(
            request_id=request_id,
            teacher=asked.teacher.name,
            k=asked.k,
            temperature=asked.temperature_of(trajectory),
            completion_text=self._text.text(ids),
            completion_ended=ids[-1] in self._tokens.ends_of(task),
            **self._prompt(task, trajectory),
        )

    def _prompt(self, task: Task, trajectory: Trajectory) -> dict[str, Any]:
        if isinstance(task.prompt, str):
            return {"prompt_text": task.prompt}
        if is_chat(task.prompt):
            messages = [codec.message_to_proto(m) for m in task.prompt if isinstance(m, Message)]
            tools = [codec.tool_to_proto(tool) for tool in task.tools]
            return {"conversation": task_pb2.Conversation(messages=messages), "tools": tools}
        given = trajectory.token_ids[: int(np.argmax(trajectory.sampled_mask))].tolist()
        return {"prompt_text": self._text.text(given)}

    def _by_token(self, response: pb.ScoreResponse, trajectory: Trajectory) -> TeacherScores:
        """The scores of the sampled tokens. The teacher also scored the environment turns between them."""
        # [T - first]: the scored range begins at the first sampled token.
        mask = trajectory.sampled_mask[int(np.argmax(trajectory.sampled_mask)) :]
        scores = codec.scores_from_proto(response.scores, "scores", num_scored=len(mask))
        return replace(
            scores,
            logprobs=scores.logprobs[mask],
            top_ids=scores.top_ids[mask],
            top_logprobs=scores.top_logprobs[mask],
            log_tail=scores.log_tail[mask] if len(scores.log_tail) else scores.log_tail,
        )

    def _by_span(self, response: pb.ScoreResponse, trajectory: Trajectory) -> TeacherScores:
        """The teacher's scores summed over each span, on the span's first token."""
        scores = codec.scores_from_proto(response.scores, "scores", num_scored=len(response.end_offsets))
        # S offsets in bytes, one per sampled token.
        _, ends = self._text.read(trajectory.token_ids[trajectory.sampled_mask].tolist())
        spans = align(ends, list(response.end_offsets))
        if not spans:
            raise InvalidRequest("teacher: its tokens and the policy's share no end; check both tokenizers")
        summed = span_scores(spans, scores.logprobs.tolist(), len(ends))
        # [G], policy tokens in each span.
        lengths = np.array([span.student_stop - span.student_start for span in spans], dtype=np.int64)
        tops = tops_of_spans(spans, scores, self._shared_ids.get(scores.teacher), len(ends))
        return replace(scores, logprobs=summed.logprobs, span_lengths=lengths, **tops)


def _scored(answer: pb.ScoreResponse) -> pb.ScoreResponse:
    """The answer. Raises InvalidRequest when it is a refusal."""
    if answer.refused:
        raise InvalidRequest(answer.refused[:500])
    return answer


def tops_of_spans(
    spans: Sequence[Span], scores: TeacherScores, shared: npt.NDArray[np.int64] | None, num_tokens: int
) -> dict[str, Any]:
    """Fields of TeacherScores: each span's top at its last token, times the probability of the span's beginning."""
    k = scores.top_ids.shape[1]
    # [S, K], filled at the last token of each span.
    ids = np.zeros((num_tokens, k), dtype=np.int64)
    logprobs = np.zeros((num_tokens, k), dtype=np.float32)
    tail = np.zeros(num_tokens if k else 0, dtype=np.float32)
    if k and shared is not None:
        for span in spans:
            here, there = span.student_stop - 1, span.teacher_stop - 1
            beginning = scores.logprobs[span.teacher_start : there].sum()
            ids[here] = shared[scores.top_ids[there]]
            # The codec refuses smaller values.
            logprobs[here] = np.maximum(beginning + scores.top_logprobs[there], MIN_LOGPROB)
            tail[here] = beginning + scores.log_tail[there]
    share = 1.0 if shared is None else float((shared >= 0).mean())
    return {"top_ids": ids, "top_logprobs": logprobs, "log_tail": tail, "shared_fraction": share}


async def score_all(
    channel: grpc.aio.Channel, requests: Sequence[pb.ScoreRequest], *, timeout: float, wait_for_ready: bool
) -> Mapping[str, pb.ScoreResponse]:
    """One Score stream: all requests, all responses by request id. Raises PluginFailed when one is missing."""

    async def sending() -> AsyncIterator[pb.ScoreRequest]:
        for request in requests:
            yield request

    stream = pb_grpc.TeacherServiceStub(channel).Score(sending(), timeout=timeout, wait_for_ready=wait_for_ready)
    answers = {response.request_id: response async for response in stream}
    missing = [request.request_id for request in requests if request.request_id not in answers]
    if missing:
        raise PluginFailed(f"teacher: answered {len(answers)} of {len(requests)} requests")
    return answers
