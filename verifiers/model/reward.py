"""A reward model behind a server that pools or classifies, such as ``vllm serve --runner pooling``."""

import math
from typing import Any

from rlserve.errors import InvalidRequest, Unavailable
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.model.http import Endpoint

MAX_CHARACTERS = 50_000


class RewardModelVerifier:
    """The scalar that a reward model at ``url`` gives to prompt and completion, times ``scale`` plus ``shift``.

    Speaks vLLM's ``/pooling`` and ``/classify``, which ``path`` chooses. A chat model gets the two as messages, with
    ``chat = false`` as one text. The reward is cut to ``[low, high]``; ``pass_at`` and more passes. No number in
    time is no verdict.
    """

    name = "reward_model"
    version = "1"
    description = "a reward model's scalar, over vLLM's pooling or classify API"
    limits_itself = True

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
        pass_at: float = 0.0,
        key_file: str = "",
        timeout_seconds: float = 20.0,
        concurrency: int = 64,
    ) -> None:
        if path not in ("/pooling", "/classify"):
            raise InvalidRequest(f'options.path: is {path!r}; give "/pooling" or "/classify"')
        if low >= high:
            raise InvalidRequest(f"options.low: is {low}; give a number below high, {high}")
        if concurrency < 1:
            raise InvalidRequest(f"options.concurrency: is {concurrency}; give at least 1")
        self.concurrency = concurrency
        kept = {"key_file": key_file, "timeout_seconds": timeout_seconds, "concurrency": concurrency}
        self._endpoint = Endpoint(url, **kept) if url else None  # type: ignore[arg-type]
        self._model, self._path, self._chat = model, path, chat
        self._scale, self._shift, self._pass_at = scale, shift, pass_at
        self.reward_range = (low, high)
        self.limit_seconds = timeout_seconds + 5.0

    async def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Ask for one scalar. Raises Unavailable for none."""
        if self._endpoint is None:
            raise InvalidRequest("options.url: is empty; set verifier.options.reward_model.url to a pooling server")
        answer = await self._endpoint.post(self._path, {"model": self._model} | self._input(prompt, completion))
        raw = _scalar(answer)
        low, high = self.reward_range
        reward = min(high, max(low, self._scale * raw + self._shift))
        return Verdict(
            outcome=Outcome.PASS if reward >= self._pass_at else Outcome.FAIL,
            reward=reward,
            parts={"raw": raw},
            reason=f"the model says {raw:.4g}",
            verifier=self.name,
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._endpoint is not None:
            await self._endpoint.close()

    def _input(self, prompt: str, completion: str) -> dict[str, Any]:
        question, answer = (text[:MAX_CHARACTERS].encode("utf-8", "replace").decode() for text in (prompt, completion))
        if not self._chat:
            return {"input": question + answer}
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _scalar(answer: Any) -> float:
    """The one number of an answer: the last pooled value, or the score of the last class."""
    try:
        value = answer["data"][0]
        value = value.get("data", value.get("probs"))
        while isinstance(value, list):
            value = value[-1]
        number = float(value)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise Unavailable("reward model: the answer holds no number; is it a pooling or classify server?") from error
    if not math.isfinite(number):
        raise Unavailable(f"reward model: gave {number}")
    return number
