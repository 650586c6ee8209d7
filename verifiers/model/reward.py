"""A reward model behind a server that pools or classifies, such as ``vllm serve --runner pooling``."""

import math
from typing import Any

from rlserve.errors import InvalidRequest, Unavailable
from rlserve.records import Verdict
from rlserve.records.verdict import outcome_of
from rlserve.verifiers.model.remote import MAX_CHARACTERS, RemoteModelVerifier


class RewardModelVerifier(RemoteModelVerifier):
    """Rewards prompt and completion with the scalar of a reward model at ``url``, times ``scale`` plus ``shift``.

    ``path`` chooses between vLLM's ``/pooling`` and ``/classify``. A chat model gets the two as messages; with
    ``chat = false`` the model gets them as one text. The reward is cut to ``[low, high]``; ``pass_at`` or more is
    right, if it is set. No number in time is no verdict.
    """

    name = "reward_model"
    version = "1"
    description = "a reward model's scalar, over vLLM's pooling or classify API"

    def __init__(
        self,
        *,
        url: str = "",
        model: str = "",
        path: str = "/pooling",
        chat: bool = True,
        scale: float = 1.0,
        shift: float = 0.0,
        low: float = -10.0,
        high: float = 10.0,
        pass_at: float | None = None,
        key_file: str = "",
        key_env: str = "",
        timeout_seconds: float = 20.0,
        concurrency: int = 64,
    ) -> None:
        if path not in ("/pooling", "/classify"):
            raise InvalidRequest(f'options.path: is {path!r}; give "/pooling" or "/classify"')
        super().__init__(
            url=url,
            model=model,
            low=low,
            high=high,
            pass_at=pass_at,
            key_file=key_file,
            key_env=key_env,
            timeout_seconds=timeout_seconds,
            concurrency=concurrency,
        )
        self.reward_range = (low, high)
        self._path, self._chat = path, chat
        self._scale, self._shift = scale, shift

    async def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Ask for one scalar. Raises Unavailable without one."""
        body = {"model": self._model} | self._input(prompt, completion)
        raw = _scalar(await self._server("a pooling").post(self._path, body))
        low, high = self.reward_range
        # Cut: one absurd scalar would otherwise set the scale of a whole group's advantages.
        reward = min(high, max(low, self._scale * raw + self._shift))
        return Verdict(
            outcome=outcome_of(reward, self._pass_at),
            reward=reward,
            parts={"raw": raw},
            reason=f"raw score {raw:.4g}",
            verifier=self.name,
        )

    def _input(self, prompt: str, completion: str) -> dict[str, Any]:
        # A completion may contain lone surrogates, which UTF-8 cannot encode: "?" takes their place.
        question, answer = (text[:MAX_CHARACTERS].encode("utf-8", "replace").decode() for text in (prompt, completion))
        if not self._chat:
            return {"input": question + answer}
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _scalar(answer: Any) -> float:
    """Return the one number of an answer: the last pooled value, or the score of the last class."""
    try:
        value = answer["data"][0]
        value = value.get("data", value.get("probs"))  # /pooling answers with "data", /classify with "probs"
        # Pooling of every token gives a list of lists: the last token has read the whole text.
        while isinstance(value, list):
            value = value[-1]
        number = float(value)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise Unavailable("reward model: the answer holds no number; is it a pooling or classify server?") from error
    if not math.isfinite(number):
        raise Unavailable(f"reward model: gave {number}")
    return number
