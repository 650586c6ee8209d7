"""The environment ``guess``, a game over several turns: guess a hidden number from the hints "higher" and "lower".

The policy reads ``g9?`` (a number from 0 to 9), writes ``4``, reads ``>`` (higher), writes ``7`` and so on. Any guesses
within the hints win in the end; only halving the remaining range wins in few turns, which reinforcement learning
discovers. Demonstrations do either, by a fair coin.

All splits use the same numbers: before it is played, only the range of a task is known.
"""

from collections.abc import Mapping

from rlserve.environments.draws import draw
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Message, Outcome, Task, Turn, Verdict

SPLITS = ("train", "validation", "test")
NOT_A_GUESS = "!"
"""Answer to a text that is not a number in the range; it costs a turn."""
MAX_NUMBER = 10**9
"""Any value of this size will do: 30 guesses bisect the range."""
MAX_TURNS = 64
"""Any value of this size will do: twice as many as the largest range needs."""


class GuessEnvironment:
    """Find a number from 0 to ``max_number`` within ``turns`` guesses; the environment itself gives the verdict.

    Example, a game with the hidden number 7::

        episode = GuessEnvironment().open(task)
        episode.step("4").messages[0].content    # ">"
        turn = episode.step("7")
        turn.done, turn.verdict.reward           # True, 1.0
    """

    name = "guess"
    version = "1"
    # The episode's own verdict counts: only the game knows the number.
    verifier = ""
    multi_turn = True

    def __init__(
        self, *, max_number: int = 9, turns: int = 3, higher: str = ">", lower: str = "<", turn_end: str = "<eos>"
    ) -> None:
        """``higher`` and ``lower`` are the hints, ``turn_end`` the text of the end token in demonstrations."""
        if not 1 <= max_number < 10**9 or not 1 <= turns <= 64:
            raise InvalidRequest(
                f"guess.max_number, turns: are {max_number} and {turns}; "
                f"give 1 <= max_number < {MAX_NUMBER:,} and 1 <= turns <= {MAX_TURNS}"
            )
        self._max_number = max_number
        self._turns = turns
        self._hints = (higher, lower)
        self._turn_end = turn_end

    @property
    def splits(self) -> Mapping[str, int]:
        """Train, validation and test, each endless."""
        return dict.fromkeys(SPLITS, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The game at ``index``. Raises UnknownName for an unknown split."""
        if split not in SPLITS:
            raise UnknownName(f"split: {split!r} is not one of guess ({', '.join(SPLITS)})")
        return Task(
            environment=self.name,
            environment_version=self.version,
            split=split,
            index=index,
            task_id=f"{split}/{seed}/{index}",
            prompt=self._prompt,
            verifier=self.verifier,
            payload=b"",
            seed=seed,
            multi_turn=True,
            labels={"max_number": str(self._max_number), "turns": str(self._turns)},
        )

    def open(self, task: Task) -> "GuessEpisode":
        """Start a game of ``task``."""
        # The hidden number follows from the task's id: an episode can be opened on any host, also a second time.
        return GuessEpisode(self._hidden(task.task_id), self._max_number, self._turns, self._hints)

    def demonstration(self, split: str, index: int, seed: int) -> tuple[str, str]:
        """Return a game so far and a next guess that the hints allow: by a fair coin the middle, or any."""
        key = f"demonstration/{seed}/{split}/{index}"
        hidden, low, high = draw(f"{key}/hidden", self._max_number + 1), 0, self._max_number
        text, guess = self._prompt, self._guess(f"{key}/0", low, high)
        # A beginning of any length, so that every turn of a game is demonstrated.
        for turn in range(1, draw(f"{key}/turns", self._turns) + 1):
            if guess == hidden:
                break
            low, high = (guess + 1, high) if guess < hidden else (low, guess - 1)
            text += f"{guess}{self._turn_end}{self._hints[guess > hidden]}"
            guess = self._guess(f"{key}/{turn}", low, high)
        return text, str(guess)

    @property
    def _prompt(self) -> str:
        return f"g{self._max_number}?"

    def _hidden(self, task_id: str) -> int:
        return draw(f"hidden/{task_id}", self._max_number + 1)

    @staticmethod
    def _guess(key: str, low: int, high: int) -> int:
        return (low + high) // 2 if draw(f"{key}/coin", 2) else low + draw(key, high - low + 1)


class GuessEpisode:
    """One game."""

    def __init__(self, hidden: int, max_number: int, turns: int, hints: tuple[str, str]) -> None:
        self._hidden = hidden
        self._max_number = max_number
        self._turns = turns
        self._hints = hints
        self._taken = 0

    def step(self, text: str) -> Turn:
        """A hint, or the end: found, or no turns left. Every answer has the verdict for a game that ends there."""
        self._taken += 1
        guess = self._parsed(text)
        found = guess == self._hidden
        reply = NOT_A_GUESS if guess is None else self._hints[guess > self._hidden]
        return Turn(
            messages=() if found else (Message(role="user", content=reply),),
            done=found or self._taken >= self._turns,
            # In every answer: the worker may end the episode at its own limits, and the last verdict then counts.
            verdict=self._verdict(found),
        )

    def _parsed(self, text: str) -> int | None:
        text = text.strip()
        # isascii(): int() would read the digits of every script. The length bounds what int() converts.
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(self._max_number))):
            return None
        return int(text) if int(text) <= self._max_number else None

    def _verdict(self, found: bool) -> Verdict:
        return Verdict(
            outcome=Outcome.PASS if found else Outcome.FAIL,
            reward=float(found),
            parts={"correct": float(found), "turns": float(self._taken)},
            reason=f"{'found' if found else 'not found'} after {self._taken} of {self._turns} turns",
            verifier="guess",
            passed=int(found),
            total=1,
        )
