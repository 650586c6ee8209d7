"""Multi-turn episodes on the environment's side: order of turns, deadlines, limits, attribution of errors.

``serve``  waits for: the policy's next turn (at most ``idle_seconds``), the plug-in's answer (at most
           ``turn_seconds``). unblocked by: the client, the plug-in's thread, either limit, the episode's limit.

The task in the client's first message only names a task: the server makes it again from (split, index, seed), and
rejects the episode if the two differ.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import TypeVar

from rlserve.actors.environment.blame import Blame
from rlserve.actors.environment.episode_thread import EpisodeThread
from rlserve.config.tables.episodes import EpisodesConfig
from rlserve.errors import DeadlineExceeded, InvalidRequest, LimitExceeded, NotReady
from rlserve.plugins import Environment, Episode, EpisodicEnvironment, ToolEpisode
from rlserve.records import Task, Turn
from rlserve.rpc import codec
from rlserve.v1 import environment_service_pb2 as pb

T = TypeVar("T")
MAX_TEXT_CHARACTERS = 2**20
"""Of a policy's turn: far above any context length in tokens."""
MAX_TURN_BYTES = 2**20
"""Of an environment's turn, with its messages: as above."""

Find = Callable[[str], Environment]
GiveTask = Callable[[Environment, str, int, int], Task]


class EpisodeServer:
    """All episodes of one environment server."""

    def __init__(self, config: EpisodesConfig, *, find: Find, give_task: GiveTask, blames: Mapping[str, Blame]) -> None:
        """``find`` returns an environment by name, ``give_task`` its task at (split, index, seed)."""
        self._blames = blames
        self._config = config
        self._find = find
        self._give_task = give_task
        self._num_running = 0

    @property
    def num_running(self) -> int:
        """Open episodes, including those stuck in their plug-in."""
        return self._num_running

    async def serve(self, requests: AsyncIterator[pb.EpisodeRequest]) -> AsyncGenerator[pb.EpisodeResponse, None]:
        """Answer one client until the episode is done or cancelled, or the client leaves."""
        deadline = time.monotonic() + self._config.episode_seconds
        first = await self._next(requests, deadline, "a client")
        if first is None:
            return
        environment, task = self._opened(first)
        blame = self._blames[task.environment]
        what = blame.what
        thread = self._take_thread(what)
        opened: list[Episode] = []  # filled by the thread, perhaps after this call stopped waiting for it
        try:
            await self._answer(thread, lambda: opened.append(self._open(environment, task, blame)), deadline, blame)
            while (turn := _turn(await self._next(requests, deadline, what))) is not None:
                response = await self._answer(thread, _step(opened[0], turn, blame), deadline, blame)
                yield response
                if response.done:
                    return
        finally:
            # Queued behind a call that still runs: close() never runs beside step(), and a stuck call keeps its place.
            thread.end(lambda: [episode.close() for episode in opened if hasattr(episode, "close")])

    def _opened(self, request: pb.EpisodeRequest) -> tuple[EpisodicEnvironment, Task]:
        kind = request.WhichOneof("event")
        if kind != "open":
            raise InvalidRequest(f"event: is {kind or 'unset'}; the first request of an episode opens it", field="open")
        name = request.open.task.environment
        environment = self._find(name)
        if not isinstance(environment, EpisodicEnvironment) or not environment.multi_turn:
            raise NotReady(f"environment: {name!r} is single-turn and answers no turns; use GetTasks")
        return environment, codec.task_from_proto(request.open.task, "open.task")

    def _take_thread(self, what: str) -> EpisodeThread:
        # No await between the check and the count: two calls cannot take the last place.
        if self._num_running >= self._config.max_episodes:
            raise LimitExceeded(
                f"episodes.max_episodes: {self._num_running} are open, the limit of this server; try another"
            )
        self._num_running += 1
        return EpisodeThread(what, on_end=self._release)

    def _release(self) -> None:
        self._num_running -= 1

    def _open(self, environment: EpisodicEnvironment, sent: Task, blame: Blame) -> Episode:
        # In the episode's thread, as all that the plug-in does: making a task may take long or hang.
        own = self._give_task(environment, sent.split, sent.index, sent.seed)
        # Through the codec, as the client's copy went: what the wire rounds or drops must make no difference.
        _check_same(sent, codec.task_from_proto(codec.task_to_proto(own)), blame.what)
        if not own.multi_turn:
            raise NotReady(f"task: {own.task_id!r} of {blame.what} is single-turn and takes no turns")
        return blame.run(lambda: environment.open(own))

    async def _next(
        self, requests: AsyncIterator[pb.EpisodeRequest], deadline: float, what: str
    ) -> pb.EpisodeRequest | None:
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(min(self._config.idle_seconds, left)):
                return await anext(requests, None)
        except TimeoutError:
            if left < self._config.idle_seconds:
                raise self._over(what) from None
            raise DeadlineExceeded(
                f"{what}: the policy sent no turn within episodes.idle_seconds = {self._config.idle_seconds:g}; "
                "the episode was ended"
            ) from None

    async def _answer(self, thread: EpisodeThread, work: Callable[[], T], deadline: float, blame: Blame) -> T:
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(min(self._config.turn_seconds, left)):
                return await thread.call(work)
        except TimeoutError as error:
            if isinstance(error, DeadlineExceeded):  # the plug-in's own
                raise
            if left < self._config.turn_seconds:
                raise self._over(blame.what) from None
            raise DeadlineExceeded(
                f"{blame.what}: gave no answer within episodes.turn_seconds = {self._config.turn_seconds:g}; it is at "
                f"{blame.location(thread.frame)}; the episode was ended"
            ) from None

    def _over(self, what: str) -> DeadlineExceeded:
        limit = self._config.episode_seconds
        return DeadlineExceeded(f"{what}: the episode took longer than episodes.episode_seconds = {limit:g}")


def _turn(request: pb.EpisodeRequest | None) -> pb.PolicyTurn | None:
    """The policy's turn; None if the client ends the episode."""
    if request is None or request.HasField("cancel"):
        return None
    if not request.HasField("turn"):
        kind = request.WhichOneof("event") or "unset"
        raise InvalidRequest(f"event: is {kind} in an open episode; send turn or cancel")
    if len(request.turn.text) > MAX_TEXT_CHARACTERS:
        raise LimitExceeded(f"turn.text: has {len(request.turn.text)} characters; at most {MAX_TEXT_CHARACTERS}")
    return request.turn


def _step(episode: Episode, turn: pb.PolicyTurn, blame: Blame) -> Callable[[], pb.EpisodeResponse]:
    calls = tuple([codec.tool_call_from_proto(c, f"turn.tool_calls[{i}]") for i, c in enumerate(turn.tool_calls)])
    # Calls are in the text as well: an episode that parses its own notation needs no more.
    if calls and isinstance(episode, ToolEpisode):
        return lambda: blame.run(lambda: _checked(episode.call(turn.text, calls)))
    return lambda: blame.run(lambda: _checked(episode.step(turn.text)))


def _checked(turn: object) -> pb.EpisodeResponse:
    """The plug-in's answer as a message, decoded once here so that a faulty one is the plug-in's error."""
    if not isinstance(turn, Turn):
        raise TypeError(f"step() returned {type(turn).__name__}; return rlserve.records.Turn")
    response = codec.turn_to_proto(turn)
    codec.turn_from_proto(response)
    if response.ByteSize() > MAX_TURN_BYTES:
        raise ValueError(f"step() returned {response.ByteSize()} bytes; at most {MAX_TURN_BYTES} can be sent")
    return response


def _check_same(sent: Task, own: Task, what: str) -> None:
    for field in Task.__dataclass_fields__:
        if getattr(sent, field) != getattr(own, field):
            raise InvalidRequest(
                f"open.task.{field}: is not that of {what} at {own.split}/{own.index}, seed {own.seed}; "
                "send the task as GetTasks gives it",
                field=f"open.task.{field}",
            )
