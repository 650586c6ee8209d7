"""TeacherService: check a request, have it scored, answer in any order."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio

from rlserve.actors.teacher.batcher import Batcher
from rlserve.actors.teacher.scoring import Query, Scores
from rlserve.actors.teacher.texts import EncodedText, TextEncoder, TextQuery
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import TeacherScores
from rlserve.rpc import codec
from rlserve.rpc.codec.check import fault, finite, text, token_ids, wire_text
from rlserve.tokens.model_tokens import ModelTokens
from rlserve.tokens.tokenizer import Tokenizer, fingerprint
from rlserve.v1 import teacher_service_pb2 as pb
from rlserve.v1 import teacher_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["TeacherService"].full_name
MAX_IN_STREAM = 256
"""Requests of one stream in work at once: several batches. gRPC's buffers hold further ones back."""
MAX_TEXT_CHARACTERS = 2**20
"""Longer texts would block the event loop for too long while they are tokenised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherIdentity:
    """Name, tokenizer, weights and limits of a teacher."""

    name: str
    tokenizer_fingerprint: str
    weights_digest: str
    vocabulary_size: int
    max_k: int
    max_tokens: int


class TeacherService(pb_grpc.TeacherServiceServicer):
    """The gRPC service of one teacher."""

    def __init__(self, batcher: Batcher, tokens: ModelTokens, identity: TeacherIdentity) -> None:
        self._batcher = batcher
        self._identity = identity
        self._texts = TextEncoder(tokens)

    async def Describe(self, request: pb.DescribeTeacherRequest, context: Context) -> pb.DescribeTeacherResponse:
        identity = self._identity
        return pb.DescribeTeacherResponse(
            teacher=identity.name,
            tokenizer_fingerprint=identity.tokenizer_fingerprint,
            weights_digest=identity.weights_digest,
            vocabulary_size=identity.vocabulary_size,
            max_k=identity.max_k,
            max_tokens=identity.max_tokens,
        )

    async def Vocabulary(self, request: pb.VocabularyRequest, context: Context) -> pb.VocabularyResponse:
        pieces = list(self._texts.text.token_bytes.pieces)
        pieces += [b""] * (self._identity.vocabulary_size - len(pieces))  # a padded embedding
        return pb.VocabularyResponse(token_bytes=pieces, end_id=self._texts.text.end_id)

    async def Score(
        self, request_iterator: AsyncIterator[pb.ScoreRequest], context: Context
    ) -> AsyncIterator[pb.ScoreResponse]:
        """Answers in the order of completion. A bad request ends the stream with its error, except a text that cannot
        be encoded: that one is answered with a refusal."""
        working: set[asyncio.Task[pb.ScoreResponse]] = set()
        reading: asyncio.Task[Any] | None = asyncio.ensure_future(_next(request_iterator))
        try:
            while working or reading:
                waited = {*working, reading} if reading and len(working) < MAX_IN_STREAM else working
                done, _ = await asyncio.wait({w for w in waited if w}, return_when=asyncio.FIRST_COMPLETED)
                if reading in done:
                    request = reading.result()
                    reading = asyncio.ensure_future(_next(request_iterator)) if request is not None else None
                    if request is not None:
                        working.add(asyncio.create_task(self._answer(request)))
                for task in done & working:
                    working.discard(task)
                    yield task.result()
        finally:
            # The caller left or a request failed: the others must leave the batcher's queue, too.
            for task in (*working, *([reading] if reading else [])):
                task.cancel()
            await asyncio.gather(*working, *([reading] if reading else []), return_exceptions=True)

    async def _answer(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        text(request.request_id, "", "request_id")
        if request.teacher != self._identity.name:
            raise UnknownName(f"teacher: {request.teacher!r} is not served here (known: {self._identity.name})")
        self._check_choice(request)
        if request.HasField("completion_text"):
            query = _text_query(request)
            try:
                encoded = self._texts.encode(query)
                self._check_length(len(encoded.query.token_ids))
            except InvalidRequest as error:  # refuses this text alone: the other requests of the stream go on
                return pb.ScoreResponse(request_id=request.request_id, refused=wire_text(str(error)))
            return self._response(request, await self._batcher.score(encoded.query), encoded)
        return self._response(request, await self._batcher.score(self._query(request)), None)

    def _check_choice(self, request: pb.ScoreRequest) -> None:
        if request.k > self._identity.max_k:
            fault("", "k", f"is {request.k}, but this teacher gives at most {self._identity.max_k}; ask for fewer")
        # Logits are divided by it.
        finite(request.temperature, "", "temperature", low=1e-3, high=1e3)

    def _check_length(self, length: int) -> None:
        if length > self._identity.max_tokens:
            problem = f"has {length} tokens, but this teacher takes {self._identity.max_tokens}; send a shorter one"
            fault("", "token_ids", problem, "too_long")

    def _query(self, request: pb.ScoreRequest) -> Query:
        if request.tokenizer_fingerprint != self._identity.tokenizer_fingerprint:
            raise InvalidRequest(
                f"tokenizer_fingerprint: is {request.tokenizer_fingerprint!r}, but the teacher's is "
                f"{self._identity.tokenizer_fingerprint!r}; send completion_text, or take a teacher with this tokenizer"
            )
        self._check_length(len(request.token_ids))
        # An id beyond the embedding is an error inside of the model, which fails the whole batch.
        ids = token_ids(request.token_ids, "", "token_ids", vocab_size=self._identity.vocabulary_size)
        if request.first < 1:
            fault("", "first", "is 0, but nothing predicts the first token; give at least 1")
        if not request.count or request.first + request.count > len(ids):
            problem = f"is {request.count} from {request.first} of {len(ids)} tokens; give 1 to what is there"
            fault("", "count", problem)
        return Query(
            token_ids=ids, first=request.first, count=request.count, k=request.k, temperature=request.temperature
        )

    def _response(self, request: pb.ScoreRequest, scores: Scores, encoded: EncodedText | None) -> pb.ScoreResponse:
        record = TeacherScores(
            teacher=self._identity.name,
            tokenizer_fingerprint=self._identity.tokenizer_fingerprint,
            weights_digest=self._identity.weights_digest,
            logprobs=scores.logprobs,
            top_ids=scores.top_ids,
            top_logprobs=scores.top_logprobs,
            log_tail=scores.log_tail,
            temperature=request.temperature,
        )
        return pb.ScoreResponse(
            request_id=request.request_id,
            scores=codec.scores_to_proto(record),
            end_offsets=encoded.ends if encoded else (),
            token_ids=encoded.query.token_ids[encoded.query.first :].tolist() if encoded else (),
        )


def describe(name: str, tokenizer: Tokenizer, **limits: Any) -> TeacherIdentity:
    """The identity of a teacher with this tokenizer."""
    return TeacherIdentity(name=name, tokenizer_fingerprint=fingerprint(tokenizer), **limits)


def _text_query(request: pb.ScoreRequest) -> TextQuery:
    messages = tuple(
        codec.message_from_proto(m, f"conversation.messages[{i}]") for i, m in enumerate(request.conversation.messages)
    )
    if bool(messages) == request.HasField("prompt_text"):
        fault("", "prompt_text", "and conversation: give exactly one of the two beside completion_text")
    for field, value in (("prompt_text", request.prompt_text), ("completion_text", request.completion_text)):
        if len(value) > MAX_TEXT_CHARACTERS:
            fault("", field, f"has {len(value)} characters; at most {MAX_TEXT_CHARACTERS}", "too_long")
    return TextQuery(
        prompt=messages or request.prompt_text,
        completion=request.completion_text,
        tools=tuple(codec.tool_from_proto(tool, f"tools[{i}]") for i, tool in enumerate(request.tools)),
        ended=request.completion_ended,
        k=request.k,
        temperature=request.temperature,
    )


async def _next(requests: AsyncIterator[pb.ScoreRequest]) -> pb.ScoreRequest | None:
    async for request in requests:
        return request
    return None
