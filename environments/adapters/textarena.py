"""TextArena's games: the policy plays one seat."""

import difflib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from random import Random, getstate, setstate
from typing import Any

import numpy as np

from rlserve.environments.adapters.play import (
    SPLITS,
    answer_of,
    check_format,
    check_split,
    library,
    seed_of,
    task_of,
    verdict_of,
)
from rlserve.environments.draws import draw
from rlserve.errors import InvalidRequest
from rlserve.records import Task, Turn
from rlserve.verifiers.reasoning import answer_of as without_thoughts

USUAL_TURNS = 64
"""Turns of the policy. Any value of this size will do: it bounds a game that has no end of its own."""
MAX_OTHER_MOVES = 1000
"""Of other players between two turns of the policy; a game in which the policy's turn never comes is an error."""
# As the games list moves: '[4]', [A C], at most a few words in brackets.
MOVE = re.compile(r"\[[^\[\]\n]{1,40}\]")
LISTED = re.compile(r"(?:available|valid|legal|possible)[^\n:]{0,20}:", re.IGNORECASE)
_CALLS = threading.Lock()
"""The games draw from Python's and numpy's global generators: one call at a time has them, with its game's state."""


class TextArenaEnvironment:
    """One game of TextArena; the game's own reward is the reward.

    ``game`` is its id, ``options`` its own. Of a game for several, the policy has ``seat``, and the others move at
    random, among the moves that the game lists or, of a game that lists none, among ``moves``. The policy reads what
    the game says to its seat since its last turn. A game that is cut before its end has the reward ``unfinished``.

    Example::

        environment = TextArenaEnvironment(game="GuessTheNumber-v0")
        episode = environment.open(environment.task("train", 0, 0))
        episode.step("[10]")
    """

    name = "textarena"
    verifier = ""  # the game's own reward counts
    multi_turn = True

    def __init__(
        self,
        *,
        game: str,
        options: Mapping[str, Any] | None = None,
        players: int = 1,
        seat: int = 0,
        moves: Sequence[str] = (),
        turns: int = USUAL_TURNS,
        pass_at: float = 1.0,
        unfinished: float = 0.0,
        prompt_format: str = "chat",
    ) -> None:
        check_format(self.name, prompt_format)
        if not 0 <= seat < players:
            raise InvalidRequest(f"seat: is {seat}; give one from 0 to players - 1, {players - 1}")
        if turns < 1:
            raise InvalidRequest(f"turns: is {turns}; give at least 1")
        self._library = library("textarena", "textarena")
        self._game, self._options = self._registered(game), dict(options or {})
        self._players, self._seat, self._moves, self._turns = players, seat, tuple(moves), turns
        self._pass_at, self._unfinished, self._prompt_format = pass_at, unfinished, prompt_format
        self.version = f"{version('textarena')}/{game}"
        try:
            probe = self._play("probe", 0)
        except Exception as error:  # a game may raise anything, such as LookupError for word lists that it lacks
            words = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise InvalidRequest(f"game, options, players: {game!r} cannot be played: {words}") from error
        if players > 1 and not self._moves and not listed_moves(probe.said()):
            raise InvalidRequest(f"moves: {game!r} lists none; give those that the other players draw from")

    @property
    def splits(self) -> Mapping[str, int]:
        """Train, validation and test, each endless, with seeds of their own."""
        return dict.fromkeys(SPLITS, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The game that begins with the split's seed at ``index``. Raises UnknownName for an unknown split."""
        check_split(self.name, split)
        key = f"{split}/{seed}/{index}"
        game = self._play(key, seed_of(split, index, seed))
        return task_of(
            self, split, index, seed, task_id=f"{self._game}/{key}", text=game.said(), prompt_format=self._prompt_format
        )

    def open(self, task: Task) -> "TextArenaEpisode":
        """Start the game of ``task``."""
        game = self._play(f"{task.split}/{task.seed}/{task.index}", seed_of(task.split, task.index, task.seed))
        game.said()  # the prompt
        return TextArenaEpisode(
            game,
            turns=self._turns,
            pass_at=self._pass_at,
            unfinished=self._unfinished,
            prompt_format=self._prompt_format,
        )

    def _play(self, key: str, seed: int) -> "Game":
        return Game(
            lambda: self._library.make(self._game, **self._options),
            key=key,
            seed=seed,
            players=self._players,
            seat=self._seat,
            moves=self._moves,
        )

    def _registered(self, game: str) -> str:
        known = self._library.envs.registration.ENV_REGISTRY
        if game not in known:
            near = difflib.get_close_matches(game, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidRequest(f"game: {game!r} is not one of TextArena's{hint}")
        # The form that says only what is new: others repeat the whole game at each turn.
        return f"{game}-raw" if f"{game}-raw" in known else game


class Game:
    """One running game, at the turn of the policy's seat or over."""

    def __init__(
        self, make: Callable[[], Any], *, key: str, seed: int, players: int, seat: int, moves: tuple[str, ...]
    ) -> None:
        self._key, self._seat, self._moves = key, seat, moves
        self.reward: float | None = None
        """The seat's, once the game is over; None if the game gave none."""
        self._random = Random(seed).getstate()
        self._numpy = np.random.RandomState(seed).get_state()
        self._news: list[str] = []
        self.is_over = False
        with self._own_chance():
            self._game = make()
            self._game.reset(num_players=players, seed=seed)
            self._to_the_seat()

    def said(self) -> str:
        """What the game has said to the seat since the last call."""
        news, self._news = "\n".join(self._news).strip(), []
        return news

    def move(self, text: str) -> None:
        """Take the policy's turn, then those of the others."""
        with self._own_chance():
            self.is_over = bool(self._game.step(action=text)[0])
            self._to_the_seat()

    def _to_the_seat(self) -> None:
        for number in range(MAX_OTHER_MOVES):
            if self.is_over:
                rewards, _ = self._game.close()
                self.reward = None if rewards is None else float(rewards[self._seat])
                return
            player, observation = self._game.get_observation()
            if player == self._seat:
                self._news += self._words(observation)
                return
            self.is_over = bool(self._game.step(action=self._random_move(observation, number))[0])
        raise RuntimeError(f"the turn of seat {self._seat} did not come in {MAX_OTHER_MOVES} moves")

    def _words(self, observation: Any) -> list[str]:
        if isinstance(observation, str):
            return [observation]
        names = self._game.state.role_mapping
        # The policy knows what it wrote itself.
        return [f"[{names.get(speaker, 'GAME')}] {text}" for speaker, text, _ in observation if speaker != self._seat]

    def _random_move(self, observation: Any, number: int) -> str:
        words = observation if isinstance(observation, str) else "\n".join(text for _, text, _ in observation)
        moves = self._moves or listed_moves(words)
        if not moves:
            raise RuntimeError("the game lists no moves for the other players; give them as the option moves")
        return moves[draw(f"{self._key}/{number}/{words}", len(moves))]

    @contextmanager
    def _own_chance(self) -> Iterator[None]:
        with _CALLS:
            others = getstate(), np.random.get_state()
            setstate(self._random)
            np.random.set_state(self._numpy)
            try:
                yield
            finally:
                self._random, self._numpy = getstate(), np.random.get_state()
                setstate(others[0])
                np.random.set_state(others[1])


def listed_moves(words: str) -> tuple[str, ...]:
    """The moves that a game lists at the end of its words, such as ``Available Moves: '[0]', '[4]'``."""
    *_, last = LISTED.split(words) if LISTED.search(words) else ("",)
    return tuple(MOVE.findall(last))


class TextArenaEpisode:
    """One game of the policy."""

    def __init__(self, game: Game, *, turns: int, pass_at: float, unfinished: float, prompt_format: str) -> None:
        self._game = game
        self._turns, self._pass_at, self._unfinished = turns, pass_at, unfinished
        self._prompt_format = prompt_format
        self._taken = 0

    def step(self, text: str) -> Turn:
        """Play the text, and show what came of it."""
        self._taken += 1
        # Thoughts would be read as moves: games look for brackets anywhere.
        self._game.move(without_thoughts(text, ""))
        done = self._game.is_over or self._taken >= self._turns
        reward = self._unfinished if self._game.reward is None else self._game.reward
        verdict = verdict_of(
            "textarena",
            reward,
            pass_at=self._pass_at,
            turns=self._taken,
            reason=f"{'over' if self._game.is_over else 'not over'} after {self._taken} of {self._turns} turns",
        )
        return Turn(
            messages=() if done else answer_of(self._game.said(), self._prompt_format), done=done, verdict=verdict
        )
