"""A verifier that asks a model behind a server."""

MODULE = '''"""{class_name}: what it judges, in one line."""

import re

from rlserve.errors import InvalidRequest, Unavailable
from rlserve.records import Outcome, Verdict
from rlserve.verifiers.model.http import Endpoint
from rlserve.verifiers.reasoning import answer_of

SYSTEM = "You grade answers. Is the text polite? End with one line `Score: N`, N from 0 to 10."
SCORE = re.compile(r"^\\s*Score:\\s*(\\d{1,2})\\s*$", re.MULTILINE)
MAX_CHARACTERS = 20_000  # of a text that is sent: some 5,000 tokens


class {class_name}:
    """A model behind an OpenAI-compatible server scores how polite an answer is.

    Options, ``[verifier.options.{name}]`` in a run's configuration: ``url`` (ends in /v1) and ``model``.
    """

    name = "{name}"
    version = "1"
    description = "a model scores how polite an answer is"
    reward_range = (0.0, 1.0)
    limits_itself = True
    """The request has a deadline of its own, so that the server's limit for computing does not apply."""

    def __init__(self, *, url: str = "", model: str = "", timeout_seconds: float = 30.0, concurrency: int = 64) -> None:
        self.concurrency = concurrency  # so many completions wait for the server at once, in one process
        self.limit_seconds = timeout_seconds + 5.0  # the request ends first, with an error that names the server
        self._model = model
        # Without a url it can still be listed.
        self._endpoint = Endpoint(url, timeout_seconds=timeout_seconds, concurrency=concurrency) if url else None

    async def verify(self, completion: str, payload: bytes, prompt: str) -> Verdict:
        """Ask for one score. Raises Unavailable without one: that is no verdict, never a reward."""
        if self._endpoint is None:
            raise InvalidRequest("options.url: is empty; set verifier.options.{name}.url")
        # A completion may hold lone surrogates, which UTF-8 cannot encode.
        text = answer_of(completion, prompt)[:MAX_CHARACTERS].encode("utf-8", "replace").decode()
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        answer = await self._endpoint.post("/chat/completions", {"model": self._model, "messages": messages})
        score = _score(answer)
        return Verdict(
            outcome=Outcome.PASS if score >= 7 else Outcome.FAIL,
            reward=score / 10,
            parts={"score": float(score)},
            reason=f"score {score} of 10",
            verifier=self.name,
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._endpoint is not None:
            await self._endpoint.close()


def _score(answer: object) -> int:
    try:
        found = SCORE.findall(answer["choices"][0]["message"]["content"])  # type: ignore[index]
        score = int(found[-1])
    except (KeyError, IndexError, TypeError) as error:
        raise Unavailable("the judge gave no line `Score: N`") from error
    if score > 10:
        raise Unavailable(f"the judge gave {score}; 0 to 10 was asked for")
    return score
'''
TEST = """import asyncio
import http.server
import json
import threading
import time
from collections.abc import Iterator

import pytest
from {module} import {class_name}

from rlserve.errors import InvalidRequest, Unavailable


class Model(http.server.BaseHTTPRequestHandler):
    # A server in place of a model: it thinks for half a second, and finds "please" polite.
    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        time.sleep(0.5)
        said = "It is.\\nScore: 9" if "please" in text else "Score: 2" if text else "I cannot say."
        data = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_many_are_judged_at_once(url: str) -> None:
    async def rewards() -> list[float]:
        judge = {class_name}(url=url, model="m")
        texts = ["<think>please</think>no", "please"] * 16
        verdicts = await asyncio.gather(*(judge.verify(text, b"{}", "") for text in texts))
        await judge.close()
        return [verdict.reward for verdict in verdicts]

    start = time.monotonic()
    assert asyncio.run(rewards()) == [0.2, 0.9] * 16
    assert time.monotonic() - start < 8, "one after the other they take 16 seconds"


def test_an_answer_without_a_score_is_no_verdict(url: str) -> None:
    with pytest.raises(Unavailable):
        asyncio.run({class_name}(url=url, model="m").verify("", b"{}", ""))
    with pytest.raises(InvalidRequest):
        asyncio.run({class_name}().verify("x", b"{}", ""))
"""
README = """# {name}

A judge for [rlserve](https://github.com/rlserve/rlserve): a model behind any server that speaks the OpenAI chat API.

```
pip install -e .
python -m pytest
rlserve verifier list
echo '{"id": "1", "completion": "Yes, please.", "payload": {}}' > cases.jsonl
rlserve verify {name} cases.jsonl --option url=http://127.0.0.1:8000/v1 --option model=NAME
```

In a run's configuration: `[verifier.options.{name}]` with `url` and `model`; an environment names it as
`verifier = "{name}"`.
"""
