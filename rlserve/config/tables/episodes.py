"""``[episodes]``: limits of multi-turn episodes, for environment servers and rollout workers."""

from pydantic import Field, model_validator

from rlserve.config.base import Section


class EpisodesConfig(Section):
    """Multi-turn episodes. ``rollout.max_new_tokens`` bounds what the policy samples in a whole episode."""

    max_turns: int = Field(32, ge=1)
    """Turns of the policy in one episode; then it ends as truncated."""
    max_turn_tokens: int = Field(0, ge=0)
    """Tokens that the policy may sample in one turn; 0: as many as the episode has left."""
    turn_seconds: float = Field(10.0, gt=0)
    """Limit for the environment to answer one turn."""
    episode_seconds: float = Field(600.0, gt=0)
    """Limit for one episode, the policy's own time included."""
    idle_seconds: float = Field(300.0, gt=0)
    """Longest wait of an environment server for the policy's next turn; then it ends the episode."""
    max_episodes: int = Field(1024, ge=1)
    """Episodes on one environment server at once; one more is refused, and the worker asks another server or waits."""
    attempts: int = Field(3, ge=1)
    """Tries of one episode, each from its start with the texts already sampled; then there is no verdict."""

    @model_validator(mode="after")
    def _a_turn_fits_an_episode(self) -> "EpisodesConfig":
        # The outer limit would always end first, and its message blame the episode for a slow turn.
        if self.turn_seconds > self.episode_seconds:
            raise ValueError(
                f"episodes.turn_seconds: is {self.turn_seconds:g}, more than episodes.episode_seconds = "
                f"{self.episode_seconds:g}; lower it"
            )
        return self
