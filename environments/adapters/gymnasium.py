"""Gymnasium's environments as text: observations are shown, actions are read."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

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
from rlserve.errors import InvalidRequest
from rlserve.records import Task, Turn
from rlserve.verifiers.reasoning import answer_of as without_thoughts

USUAL_TURNS = 64
"""Of an environment without a limit of its own. Any value of this size will do: it bounds an episode."""
MAX_TURNS = 10_000
"""Any value of this size will do: far beyond the context of today's models."""
TAGGED = re.compile(r"<action>(.*?)</action>", re.DOTALL)
# The library's toy texts mark a letter, such as the player's place, by a colour.
COLOURED = re.compile(r"\x1b\[[0-9;]*m(.*?)\x1b\[0m", re.DOTALL)


class GymnasiumEnvironment:
    """One environment of Gymnasium; the sum of its rewards is the reward.

    ``id`` is its id, perhaps with a module to import (``"my_package:Mine-v0"``), ``make`` its own options. The policy
    reads a text rendering (mode ``ansi``) if there is one, else the observation as JSON. ``actions`` names the actions
    of a discrete space from its first number on; without names they are numbers, and actions of other spaces are JSON.
    An action stands in ``<action>`` tags, or is the whole text; of a discrete space the last action named in it.
    A text without an action costs a turn and leaves the environment as it is.

    Example::

        environment = GymnasiumEnvironment(id="FrozenLake-v1", actions=["left", "down", "right", "up"])
        episode = environment.open(environment.task("train", 0, 0))
        episode.step("I go down: <action>down</action>")
    """

    name = "gymnasium"
    verifier = ""  # the episode's own reward counts
    multi_turn = True

    def __init__(
        self,
        *,
        id: str,
        make: Mapping[str, Any] | None = None,
        actions: Sequence[str] = (),
        instruction: str = "",
        turns: int = 0,
        pass_at: float | None = None,
        prompt_format: str = "chat",
    ) -> None:
        """``turns`` of 0 is the environment's own limit; ``pass_at`` None is its own threshold, if it has one."""
        check_format(self.name, prompt_format)
        if not 0 <= turns <= MAX_TURNS:
            raise InvalidRequest(f"turns: is {turns}; give 0 (the environment's own limit) to {MAX_TURNS}")
        self._gym = library("gymnasium", "gymnasium")
        self._id, self._make_options, self._prompt_format = id, dict(make or {}), prompt_format
        self.version = f"{version('gymnasium')}/{id}"
        made = self._make(first=True)
        try:
            spec = made.spec
            self._turns = turns or (spec and spec.max_episode_steps) or USUAL_TURNS
            threshold = spec.reward_threshold if spec else None
            self._pass_at = threshold if pass_at is None else pass_at
            self._reader = ActionReader(self._gym, made.action_space, tuple(actions))
        finally:
            made.close()
        self._instruction = instruction or self._reader.instruction

    @property
    def splits(self) -> Mapping[str, int]:
        """Train, validation and test, each endless, with seeds of their own."""
        return dict.fromkeys(SPLITS, 0)

    def task(self, split: str, index: int, seed: int) -> Task:
        """The episode that begins with the split's seed at ``index``. Raises UnknownName for an unknown split."""
        check_split(self.name, split)
        made = self._make()
        try:
            observation, _ = made.reset(seed=seed_of(split, index, seed))
            shown = _shown(made, observation)
        finally:
            made.close()
        return task_of(
            self,
            split,
            index,
            seed,
            task_id=f"{self._id}/{split}/{seed}/{index}",
            text=f"{shown}\n\n{self._instruction}",
            prompt_format=self._prompt_format,
        )

    def open(self, task: Task) -> "GymnasiumEpisode":
        """Start an episode of ``task``, in an instance of its own."""
        made = self._make()
        made.reset(seed=seed_of(task.split, task.index, task.seed))
        return GymnasiumEpisode(
            made, self._reader, turns=self._turns, pass_at=self._pass_at, prompt_format=self._prompt_format
        )

    def _make(self, *, first: bool = False) -> Any:
        options = dict(self._make_options)
        try:
            if "render_mode" not in options and "ansi" in self._modes():
                options["render_mode"] = "ansi"
            return self._gym.make(self._id, **options)
        except Exception as error:  # the library's own errors, and those of any environment
            if not first:
                raise
            raise InvalidRequest(f"id, make: {self._id!r} cannot be made: {type(error).__name__}: {error}") from error

    def _modes(self) -> Sequence[str]:
        entry = self._gym.spec(self._id).entry_point
        kind = self._gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
        modes: Sequence[str] = getattr(kind, "metadata", {}).get("render_modes") or ()
        return modes


class GymnasiumEpisode:
    """One episode."""

    def __init__(
        self, made: Any, reader: "ActionReader", *, turns: int, pass_at: float | None, prompt_format: str
    ) -> None:
        self._made, self._reader = made, reader
        self._turns, self._pass_at, self._prompt_format = turns, pass_at, prompt_format
        self._taken, self._total = 0, 0.0

    def step(self, text: str) -> Turn:
        """Take the action in the text, and show what came of it; every answer has the verdict so far."""
        self._taken += 1
        over = self._taken >= self._turns
        try:
            action = self._reader.read(text)
        except ValueError as error:
            return self._answer(f"{error}. {self._reader.instruction}", over)
        observation, reward, terminated, truncated, _ = self._made.step(action)
        self._total += float(reward)
        return self._answer(_shown(self._made, observation), over or bool(terminated) or bool(truncated))

    def close(self) -> None:
        """End the instance."""
        self._made.close()

    def _answer(self, text: str, done: bool) -> Turn:
        verdict = verdict_of(
            "gymnasium",
            self._total,
            pass_at=self._pass_at,
            turns=self._taken,
            reason=f"return {self._total:g} after {self._taken} of {self._turns} turns",
        )
        return Turn(messages=() if done else answer_of(text, self._prompt_format), done=done, verdict=verdict)


class ActionReader:
    """Reads an action of one space from a text."""

    def __init__(self, gym: Any, space: Any, names: tuple[str, ...]) -> None:
        """Raises InvalidRequest for names that are not one for each action of a discrete space."""
        self._space, self._is_text = space, isinstance(space, gym.spaces.Text)
        self._actions: dict[str, int] = {}
        if isinstance(space, gym.spaces.Discrete):
            numbers = range(int(space.start), int(space.start) + int(space.n))
            if names and len(names) != len(numbers):
                raise InvalidRequest(f"actions: are {len(names)}; the environment has {len(numbers)}: name each one")
            self._actions = {str(number): number for number in numbers}
            self._actions |= {name.lower(): number for name, number in zip(names, numbers, strict=False)}
            listed = ", ".join(names or map(str, numbers)) if len(numbers) <= 64 else f"{numbers[0]} to {numbers[-1]}"
            self.instruction = f"Answer with one action in <action> tags: {listed}."
        elif names:
            raise InvalidRequest(f"actions: {space} is not discrete; leave the names out")
        else:
            how = "a text" if self._is_text else f"JSON for {space}"
            self.instruction = f"Answer with one action in <action> tags: {how}."
        # The longest first: "up" must not be found in "upper".
        words = sorted(map(re.escape, self._actions), key=len, reverse=True)
        self._word = re.compile(rf"(?<![\w-])(?:{'|'.join(words)})(?![\w-])") if words else None

    def read(self, text: str) -> Any:
        """The action in a text. Raises ValueError when it has none."""
        text = without_thoughts(text, "")
        tagged = TAGGED.findall(text)
        said = (tagged[-1] if tagged else text).strip()
        if self._word is not None:
            found = self._word.findall(said.lower())
            if not found:
                raise ValueError("That names no action")
            return self._actions[found[-1]]
        return self._other(said)

    def _other(self, said: str) -> Any:
        action: Any = said
        if not self._is_text:
            try:
                action = self._space.from_jsonable([json.loads(said)])[0]
            except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError):
                raise ValueError("That is no action in JSON") from None
        if not self._space.contains(action):
            raise ValueError("That action is not allowed")
        return action


def _shown(made: Any, observation: Any) -> str:
    if made.render_mode == "ansi":
        return COLOURED.sub(r"[\1]", str(made.render())).strip()
    if isinstance(observation, str):
        return observation
    plain = made.observation_space.to_jsonable([observation])
    # Of spaces of spaces the library makes columns, of others rows.
    plain = {key: values[0] for key, values in plain.items()} if isinstance(plain, dict) else plain[0]
    return json.dumps(_short(plain))


def _short(value: Any) -> Any:
    """Plain data, with four digits of each float: sixteen would fill the context."""
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return _short(value)
    return float(f"{value:.4g}") if isinstance(value, float) else value
