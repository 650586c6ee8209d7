"""Files as a user writes them: reward functions with and without mistakes, an environment, an algorithm."""

REWARDS = """\
import asyncio
import time


def digits(completions, **columns):
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]


def exact(prompts, completions, answer):
    return [float(text.strip().endswith(str(right))) for text, right in zip(completions, answer)]


def best(completions, **columns):
    return [float(len(text) == max(map(len, completions))) for text in completions]


def chat(prompts, completions, **columns):
    assert [m["role"] for m in prompts[0]] == ["system", "user"]
    return [float(completion[0]["content"] == "yes") for completion in completions]


def undecided(completions, **columns):
    return [None if text == "?" else 1.0 for text in completions]


async def waits(completions, **columns):
    await asyncio.sleep(0.5)
    return [float(len(text)) for text in completions]


def misnamed(completions, answr):
    return [0.0] * len(completions)


def raises(completions, **columns):
    return [1 / (len(text) - len(text)) for text in completions]


def fears_empty(completions, **columns):
    return [1 / len(text) for text in completions]


def one(completions, **columns):
    return [1.0]


def nan(completions, **columns):
    return [float("nan") for text in completions]


def inf(completions, **columns):
    return [float("inf") for text in completions]


def text(completions, **columns):
    return ["1.0" for text in completions]


def number(completions, **columns):
    return 1.0


def forgets_to_await(completions, **columns):
    return waits(completions)


def slow(completions, **columns):
    time.sleep(60)
    return [0.0] * len(completions)


class Kind:
    pass


VALUE = 3
"""

ENVIRONMENT = '''\
from rlserve.records import Task


class Doubles:
    """Twice a number."""

    name = "doubles"
    version = "1"
    verifier = "exact"
    splits = {"train": 0, "test": 50}

    def task(self, split, index, seed):
        number = index % 5
        return Task(environment=self.name, split=split, index=index, task_id=f"{split}/{index}", seed=seed,
                    prompt=f"2*{number}=", verifier=self.verifier, payload=b'{"answer": "%d"}' % (2 * number))

    def columns(self, split, index, seed):
        return {"number": index % 5, "answer": 2 * (index % 5)}
'''

LOSS = """\
from rlserve.algorithms.policy_gradient import PolicyGradient
from rlserve.config.algorithms.policy_gradient import GrpoConfig


class Plain(PolicyGradient[GrpoConfig]):
    def __init__(self, config):
        super().__init__(GrpoConfig(**config.options))

    def token_loss(self, logprobs, log_ratio, advantages, batch):
        return -log_ratio.exp() * advantages, {}
"""
