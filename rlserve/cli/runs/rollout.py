"""``rlserve rollout``: status, pause, resume and samples of a running run's rollout workers."""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from rlserve.actors.discovery.hub_client import HubClient
from rlserve.actors.rollout.client import RolloutClient
from rlserve.cli.runs.hub_address import hub_address
from rlserve.config.load import load_run
from rlserve.config.paths import RunPaths
from rlserve.errors import InvalidRequest, UnknownName
from rlserve.records import Actor, ActorKind, Message, Sampling, Task

ACTIONS = {
    "status": "policy version, groups and speed of each worker, and whether it is paused",
    "pause": "let workers take no new tasks; groups in work are finished, and the run waits",
    "resume": "let paused workers take new tasks again",
    "sample": "completions of a prompt under the weights that a worker serves now",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, what in ACTIONS.items():
        action = actions.add_parser(name, help=what, description=what)
        action.add_argument("run", help="directory of the run, e.g. runs/quickstart")
        if name == "sample":
            action.add_argument("prompt", help="a user's message, or with --text the beginning of a text")
            action.add_argument("--text", action="store_true", help="no chat template")
            action.add_argument("-n", type=int, default=1, metavar="N", help="completions (default 1)")
            action.add_argument("--temperature", type=float, help="0 is greedy (default: the run's)")
            action.add_argument("--max-new-tokens", type=int, help="default: the run's")
            action.add_argument("--seed", type=int, default=0)
            action.add_argument("--seconds", type=float, default=600.0, help="wait this long (default 600)")
        action.add_argument("--worker", help="one worker, e.g. rollout-0" + ("" if name == "sample" else "; else all"))


def run(arguments: argparse.Namespace) -> int:
    asyncio.run(_run(arguments))
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    async with HubClient(hub_address(None, arguments.run)) as hub:
        workers = _chosen(await hub.list_actors(ActorKind.ROLLOUT), arguments.worker)
    if arguments.action == "sample":
        await _sample(workers[0], arguments)
        return
    for worker in workers:
        async with RolloutClient(worker.address) as client:
            if arguments.action == "pause":
                await client.pause()
            elif arguments.action == "resume":
                await client.resume()
            # After the action, so that the line shows its effect.
            status = await client.status()
        print(
            f"{status.worker_id}: {'paused' if status.paused else 'working'}, version {status.policy_version}, "
            f"{status.running_groups} groups in work, {status.finished_groups} finished, "
            f"{status.tokens_per_second:.0f} tokens/s, {status.weight_updates} weight updates"
        )


def _chosen(workers: Sequence[Actor], wanted: str | None) -> list[Actor]:
    found = sorted((w for w in workers if wanted in (None, w.actor_id)), key=lambda w: w.actor_id)
    if not found:
        known = ", ".join(sorted(w.actor_id for w in workers)) or "none yet"
        raise UnknownName(f"--worker: no rollout worker {wanted or ''} is alive (known: {known})")
    return found


async def _sample(worker: Actor, arguments: argparse.Namespace) -> None:
    # Here: the other actions need no tokenizer, and transformers takes seconds to import.
    from rlserve.actors.start_model import model_at
    from rlserve.tokens.model_tokens import ModelTokens
    from rlserve.tokens.prompts import encode_prompt

    paths = RunPaths(Path(arguments.run))
    config = load_run([paths.config])
    model = model_at(config.model.path) if config.model.path else str(paths.start_model)
    tokens = ModelTokens.load(model, config.model.chat_template_kwargs)
    prompt = arguments.prompt if arguments.text else (Message(role="user", content=arguments.prompt),)
    task = Task(environment="", split="", index=0, task_id="prompt", prompt=prompt, verifier="", payload=b"")
    room = config.model.max_length - (arguments.max_new_tokens or config.rollout.max_new_tokens)
    sampling = Sampling(
        temperature=arguments.temperature,
        max_new_tokens=arguments.max_new_tokens,
        stop_token_ids=tokens.ends_of(task),
    )
    if arguments.n < 1:
        raise InvalidRequest(f"-n: is {arguments.n}; give at least 1")
    async with RolloutClient(worker.address) as client:
        trajectories = await client.generate(
            encode_prompt(tokens.tokenizer, task, max_tokens=room).token_ids,
            n=arguments.n,
            sampling=sampling,
            seed=arguments.seed,
            deadline_seconds=arguments.seconds,
        )
    for trajectory in trajectories:
        # token_ids holds the prompt too.
        ids = trajectory.token_ids[trajectory.sampled_mask].tolist()
        versions = sorted({span.version for span in trajectory.policy_spans})
        print(f"--- version {', '.join(map(str, versions))}, {len(ids)} tokens, {trajectory.finish_reason}")
        print(tokens.text(ids))
