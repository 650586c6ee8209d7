"""One check per promise: returns the fault, "" if there is none, or raises Skip."""

import json
import time
from collections.abc import Awaitable, Callable

from rlserve.actors.environment.client import EnvironmentClient
from rlserve.actors.environment.conformance.episode_checks import SAID, play
from rlserve.actors.environment.conformance.site import Site, Skip, verify_all
from rlserve.errors import DeadlineExceeded, InvalidRequest, LimitExceeded, RlserveError, Unavailable, UnknownName
from rlserve.plugins import HELD_OUT_SPLITS
from rlserve.records import Outcome, Task
from rlserve.rpc import codec

SAMPLE = 8
"""Tasks per check: enough to see repeats, few enough that a slow environment is checked within a minute."""
TASK_SECONDS = 2.0
"""Limit per task: a rollout worker waits this long before it can start to sample."""
REFUSALS = (InvalidRequest, UnknownName, LimitExceeded)
ODD_TEXTS = {
    "an empty answer": "",
    "blanks": " \n\t ",
    "100 KB of one letter": "a" * 100_000,  # regular expressions of quadratic time
    "100 KB of digits": "7" * 100_000,  # int() refuses more than 4300 digits since Python 3.11
    "100 KB of brackets": "(" * 50_000 + ")" * 50_000,  # recursive parsers
    "astral characters, right to left, combining": "\U0001f600\u05d0\u05d1 e\u0301\u202e",
    "a lone surrogate": "\ud800",  # sampled bytes need not be UTF-8
    "a NUL": "a\x00b",  # ends a string in C libraries
}

Check = Callable[[Site], Awaitable[str]]


async def spec_is_whole(site: Site) -> str:
    """The spec has a version and splits, and Describe returns the same spec as the hub."""
    if not site.spec.version:
        return "version is empty; give one, and a new one whenever tasks change"
    described = {spec.name: spec for spec in await site.client.describe()}.get(site.spec.name)
    if described is None:
        return "Describe does not offer it"
    if dict(described.splits) != dict(site.spec.splits) or described.version != site.spec.version:
        return f"Describe returns {described.version} {dict(described.splits)}, registered is {site.spec.version} "
    return ""


async def every_split_answers(site: Site) -> str:
    """Each split returns its first tasks, and a finite one wraps around."""
    for split, size in site.spec.splits.items():
        first = await site.client.get_tasks(site.spec.name, split=split, count=1)
        if len(first) != 1:
            return f"split {split!r} gave {len(first)} tasks where 1 was asked for"
        if size:
            again = (await site.client.get_tasks(site.spec.name, split=split, first_index=size, count=1))[0]
            if again.task_id != first[0].task_id:
                return f"split {split!r} has {size} tasks, but task {size} is {again.task_id!r}, not the first again"
    return ""


async def tasks_say_where_they_are_from(site: Site) -> str:
    """Environment, split, index and seed of a task are those requested, and it has a prompt."""
    for task in await _sample(site, seed=5):
        if (task.environment, task.split) != (site.spec.name, _split(site)):
            return f"a task names environment {task.environment!r}, split {task.split!r}"
        if not task.task_id or not task.prompt:
            return f"task {task.index} has no task_id or no prompt"
        if site.spec.verifier and task.verifier != site.spec.verifier:
            return f"task {task.index} names verifier {task.verifier!r}, the spec {site.spec.verifier!r}"
    indices = [task.index for task in await _sample(site, seed=5)]
    return "" if indices == list(range(SAMPLE)) else f"tasks 0 to {SAMPLE - 1} have the indices {indices}"


async def tasks_repeat(site: Site) -> str:
    """The same (split, index, seed) returns the same task, alone or in a batch, also after a restart."""
    first = [codec.task_to_proto(task) for task in await _sample(site, seed=1)]
    for index in range(SAMPLE):
        if codec.task_to_proto((await _tasks(site.client, site, index, 1, seed=1))[0]) != first[index]:
            return f"task {index} of seed 1 differs when requested again; draw from a seeded generator"
    if site.restart is not None:
        again = [codec.task_to_proto(t) for t in await _tasks(await site.restart(), site, 0, SAMPLE, seed=1)]
        if again != first:
            return "a restarted server returns other tasks for the same seed; use no state and no hash() of strings"
    return ""


async def seeds_differ(site: Site) -> str:
    """Endless splits return other tasks for another seed, and do not repeat at once."""
    if site.spec.splits[_split(site)]:
        raise Skip("the split is finite")
    one, other = [[await _seen(site, task) for task in await _sample(site, seed=seed)] for seed in (1, 2)]
    distinct = len(set(one))
    if site.spec.multi_turn and (one == other or distinct == 1):
        raise Skip("what differs may be hidden: prompts and first answers are the same")
    if one == other:
        return "seeds 1 and 2 return the same tasks"
    return "" if distinct > 1 else f"{SAMPLE} tasks in a row are the same"


async def held_out_is_held_out(site: Site) -> str:
    """No prompt of a training split is in a held-out one."""
    held_out = set(site.spec.splits) & (HELD_OUT_SPLITS | set(site.spec.held_out))
    training = set(site.spec.splits) - held_out
    if not held_out or not training:
        raise Skip("there are not both training and held-out splits")
    if (await _sample(site, seed=0))[0].multi_turn:
        raise Skip("what differs may be hidden until an episode shows it")
    count = 100
    seen = {
        repr(task.prompt): split
        for split in training
        for task in await site.client.get_tasks(site.spec.name, split=split, count=count, deadline_seconds=60)
    }
    for split in held_out:
        for task in await site.client.get_tasks(site.spec.name, split=split, count=count, deadline_seconds=60):
            if repr(task.prompt) in seen:
                where = seen[repr(task.prompt)]
                return f"task {task.index} of {split!r} is also in {where!r}; tell splits apart by content"
    return ""


async def bad_requests_are_refused(site: Site) -> str:
    """An unknown split or name and count 0 are rejected clearly, a huge index crashes nothing, the server goes on."""
    name = site.spec.name
    requests = {
        "an unknown split": {"split": "no-such-split"},
        "an empty split": {"split": ""},
        "count 0": {"split": _split(site), "count": 0},
    }
    for what, fields in requests.items():
        if fault := await _not_refused(site.client, name, what, **fields):  # type: ignore[arg-type]
            return fault
    if fault := await _not_refused(site.client, "no-such-environment", "an unknown environment", split="train"):
        return fault
    # An endless split may accept any index: only a crash or a wrong status is a fault.
    fault = await _not_refused(site.client, name, "index 2**64-1", split=_split(site), first_index=2**64 - 1)
    if fault and "is not refused" not in fault:
        return fault
    # The server must still answer after all of that.
    await _sample(site, seed=0)
    return ""


async def tasks_come_in_time(site: Site) -> str:
    """Each task arrives within two seconds."""
    slowest = 0.0
    for index in range(SAMPLE):
        start = time.monotonic()
        await _tasks(site.client, site, index, 1, seed=3)
        slowest = max(slowest, time.monotonic() - start)
    return "" if slowest < TASK_SECONDS else f"a task took {slowest:.1f} s; do the costly part when the server starts"


async def payload_obeys_its_schema(site: Site) -> str:
    """Payloads match ``payload_schema_json``."""
    if not site.spec.payload_schema_json:
        raise Skip("the spec has no payload_schema_json")
    # Here, since only installations with the extra ``verifier`` have it.
    from jsonschema import ValidationError, validate

    schema = json.loads(site.spec.payload_schema_json)
    for task in await _sample(site, seed=0):
        try:
            validate(json.loads(task.payload), schema)
        except (ValueError, ValidationError) as error:
            return f"payload of task {task.index} does not match the schema: {str(error).splitlines()[0][:150]}"
    return ""


async def verifier_is_known(site: Site) -> str:
    """Single-turn tasks name a verifier that is served here."""
    if site.spec.multi_turn and not site.spec.verifier:
        raise Skip("the environment gives the verdict itself")
    if not site.spec.verifier and (await _sample(site, seed=4))[0].given:
        raise Skip("completions come with its tasks, and are only learned from")
    if not site.spec.verifier:
        return "tasks name no verifier, and the environment answers no turns, so there would be no verdict"
    return "" if site.verify else f"verifier {site.spec.verifier!r} is not installed here; install it, or give --hub"


async def odd_answers_get_verdicts(site: Site) -> str:
    """Empty, huge and odd answers get a verdict in time, within the verifier's range, and empty ones do not pass."""
    task = await _verified_task(site)
    verdicts = await verify_all(site, list(ODD_TEXTS.values()), task.payload)
    low, high = site.reward_range
    for what, verdict in zip(ODD_TEXTS, verdicts, strict=True):
        if not verdict.has_reward:
            return f"{what}: no verdict ({verdict.reason[:120]})"
        if not low <= verdict.reward <= high:
            return f"{what}: reward {verdict.reward:g} is outside the verifier's {low:g} to {high:g}"
        if verdict.outcome is Outcome.PASS and what in ("an empty answer", "blanks"):
            return f"{what}: passes"
    return ""


async def verdicts_repeat(site: Site) -> str:
    """The same answer gets the same verdict."""
    task = await _verified_task(site)
    for text in ("1", "no", "a" * 100):
        one, other = await verify_all(site, [text, text], task.payload)
        if (one.outcome, one.reward) != (other.outcome, other.reward):
            return f"{text[:20]!r} got {one.outcome.value} {one.reward:g}, then {other.outcome.value} {other.reward:g}"
    return ""


async def gold_scores_full_marks(site: Site) -> str:
    """The right answer passes: the demonstration's, or the ``answer`` in the payload."""
    await _verified_task(site)
    for task in await _sample(site, seed=4):
        gold = _gold(site, task)
        verdict = (await verify_all(site, [gold], task.payload))[0]
        if verdict.outcome is not Outcome.PASS:
            return f"the right answer of task {task.index} gets {verdict.outcome.value}: {verdict.reason[:150]}"
    return ""


async def payload_is_not_in_the_prompt(site: Site) -> str:
    """The prompt does not contain the whole payload."""
    for task in await _sample(site, seed=0):
        # A short payload, such as one digit, may stand in a prompt by chance.
        if len(task.payload) > 8 and task.payload.decode("utf-8", "replace") in repr(task.prompt):
            return f"task {task.index} shows its payload to the policy"
    return ""


CHECKS: tuple[Check, ...] = (
    spec_is_whole,
    every_split_answers,
    tasks_say_where_they_are_from,
    tasks_repeat,
    seeds_differ,
    held_out_is_held_out,
    bad_requests_are_refused,
    tasks_come_in_time,
    payload_obeys_its_schema,
    payload_is_not_in_the_prompt,
    verifier_is_known,
    odd_answers_get_verdicts,
    verdicts_repeat,
    gold_scores_full_marks,
)


def _split(site: Site) -> str:
    return "train" if "train" in site.spec.splits else min(site.spec.splits)


async def _tasks(client: EnvironmentClient, site: Site, first: int, count: int, *, seed: int) -> list[Task]:
    return await client.get_tasks(site.spec.name, split=_split(site), first_index=first, count=count, seed=seed)


async def _sample(site: Site, *, seed: int) -> list[Task]:
    return await _tasks(site.client, site, 0, SAMPLE, seed=seed)


async def _not_refused(client: EnvironmentClient, name: str, what: str, **fields: object) -> str:
    try:
        await client.get_tasks(name, **fields)  # type: ignore[arg-type]
    except REFUSALS:
        return ""
    except (Unavailable, DeadlineExceeded) as error:
        return f"{what}: the server is gone or stuck ({error})"
    except RlserveError as error:
        return f"{what}: is refused as {type(error).__name__}; answer INVALID_ARGUMENT or NOT_FOUND"
    return f"{what}: is not refused"


async def _seen(site: Site, task: Task) -> str:
    """What a policy sees of a task: the prompt and, over several turns, the first answers."""
    answers = (await play(site.client, task, SAID, most=4)).outline if task.multi_turn else ()
    return repr((task.prompt, answers))


async def _verified_task(site: Site) -> Task:
    """A task whose verifier is served here. Raises Skip."""
    if site.verify is None:
        raise Skip("its verifier is not served here")
    task = (await _sample(site, seed=4))[0]
    if task.multi_turn and not task.verifier:
        raise Skip("the environment gives the verdict itself")
    return task


def _gold(site: Site, task: Task) -> str:
    if site.demonstrate is not None and not task.multi_turn:
        try:
            return site.demonstrate(task.split, task.index, task.seed)[1]
        except RlserveError as error:
            raise Skip(f"no demonstration: {error}") from error
    try:
        answer = json.loads(task.payload)["answer"]
    except (ValueError, KeyError, TypeError) as error:
        raise Skip("no demonstration, and its payload has no answer") from error
    marker = json.loads(task.payload).get("marker", "")
    return str(marker) + str(answer[0] if isinstance(answer, list) else answer)
