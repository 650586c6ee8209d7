"""Checkpoints: exact resume in every ZeRO stage, whole or passed over, loadable by others."""

import json
import logging
import signal

import pytest
import torch

from rlserve.actors.checkpoints import STORE_FILE, latest, open_checkpoint
from rlserve.actors.learner import store_copy
from rlserve.actors.learner.train import checkpoint
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.config.paths import RunPaths
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import StateCorrupt
from rlserve.store.base import GroupInfo
from rlserve.store.sqlite import SqliteStore
from rlserve.store.sqlite_backend import SqliteBackend
from tests.support.models.learner_work import policy_gradient, random_batch, save_policy, split
from tests.support.processes.children import child

LR = 3e-3


def train(engine, steps):
    for step in steps:
        batches = split(random_batch(step), 2)
        engine.step(batches, loss=policy_gradient(batches), lr=LR)


def weights_of(engine):
    return dict(engine.weights(engine.dtype))


def state_of(engine):
    return dict(engine.optimizer_state())


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].view(torch.uint8).equal(right[name].view(torch.uint8)), name


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_four_steps_a_save_and_four_more_equal_eight_bit_for_bit(start, tmp_path, stage, dtype):
    config = LearnerConfig(zero_stage=stage, dtype=dtype, weight_decay=0.01)
    whole = LearnerEngine(str(start), config, seed=0)
    train(whole, range(4))
    kept = checkpoint.save(tmp_path, 4, whole, {"cursor": 7})
    halfway = weights_of(whole)
    train(whole, range(4, 8))

    found = latest(tmp_path)
    assert (found.path, found.step, found.state) == (kept.path, 4, {"cursor": 7})
    resumed = LearnerEngine(str(found.model_path), config, seed=1)
    checkpoint.restore(found, resumed)
    assert_same_bits(weights_of(resumed), halfway)
    assert resumed.optimizer_steps == 4
    train(resumed, range(4, 8))
    assert_same_bits(weights_of(resumed), weights_of(whole))
    assert_same_bits(state_of(resumed), state_of(whole))


def test_a_run_may_resume_in_another_stage(start, tmp_path):
    source = LearnerEngine(str(start), LearnerConfig(zero_stage=3, dtype="bfloat16"), seed=0)
    train(source, range(3))
    kept = checkpoint.save(tmp_path, 3, source, {})
    resumed = LearnerEngine(str(kept.model_path), LearnerConfig(zero_stage=0, dtype="bfloat16"), seed=0)
    checkpoint.restore(kept, resumed)
    assert_same_bits(weights_of(resumed), weights_of(source))
    assert_same_bits(state_of(resumed), state_of(source))


def test_others_load_the_model_by_the_usual_door(start, tmp_path):
    from transformers import AutoModelForCausalLM

    engine = LearnerEngine(str(start), LearnerConfig(dtype="bfloat16"), seed=0)
    train(engine, range(1))
    kept = checkpoint.save(tmp_path, 1, engine, {})
    model = AutoModelForCausalLM.from_pretrained(kept.model_path, dtype="auto")
    assert_same_bits({name: p.detach() for name, p in model.named_parameters()}, weights_of(engine))
    assert (kept.path / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    assert json.loads((kept.path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {p.suffix for p in kept.path.rglob("*") if p.is_file()} == {".json", ".safetensors"}


def test_a_model_of_several_shards_is_saved_and_restored(start, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("rlserve.actors.learner.train.model_files.SHARD_BYTES", 20_000)
    engine = LearnerEngine(str(start), LearnerConfig(dtype="float32"), seed=0)
    train(engine, range(1))
    kept = checkpoint.save(tmp_path, 1, engine, {})
    assert len(list(kept.path.glob("model-*.safetensors"))) > 2
    model = AutoModelForCausalLM.from_pretrained(kept.model_path)
    assert_same_bits({name: p.detach() for name, p in model.named_parameters()}, weights_of(engine))
    again = LearnerEngine(str(kept.model_path), LearnerConfig(dtype="float32"), seed=0)
    checkpoint.restore(kept, again)
    assert_same_bits(state_of(again), state_of(engine))


def test_the_random_stream_goes_on_where_it_was(engine, tmp_path):
    torch.manual_seed(5)
    kept = checkpoint.save(tmp_path, 1, engine, {})
    expected = torch.rand(4)
    torch.manual_seed(6)
    checkpoint.restore(kept, engine)
    assert torch.rand(4).equal(expected)


@pytest.fixture(scope="module")
def engine(start):
    return LearnerEngine(str(start), LearnerConfig(dtype="float32"), seed=0)


def test_nothing_is_found_where_nothing_was_saved(tmp_path):
    assert latest(tmp_path / "absent") is None


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "file", "told"),
    [
        (truncate, "model.safetensors", "model.safetensors: has"),
        (flip, "model.safetensors", "not what was written"),
        (flip, "training/rng.safetensors", "not what was written"),
        (lambda path: path.unlink(), "config.json", "config.json: is missing"),
        (truncate, "manifest.json", "cannot be read"),
        (lambda path: path.unlink(), "manifest.json", "cannot be read"),
        (lambda path: path.write_text("[]"), "manifest.json", "cannot be read"),
        (lambda path: path.write_text('{"format": 1, "files": {}}'), "manifest.json", "lacks"),
        (lambda path: path.write_text('{"format": 99}'), "manifest.json", "format 99"),
    ],
)
def test_a_broken_newest_is_named_and_passed_over(engine, tmp_path, caplog, harm, file, told):
    older = checkpoint.save(tmp_path, 5, engine, {"cursor": 5})
    newest = checkpoint.save(tmp_path, 10, engine, {"cursor": 10})
    harm(newest.path / file)
    with caplog.at_level(logging.WARNING):
        assert latest(tmp_path) == older
    assert "step-10" in caplog.text and told in caplog.text
    with pytest.raises(StateCorrupt):
        open_checkpoint(newest.path)


def test_only_the_newest_are_kept_and_a_future_given_up_goes(engine, tmp_path):
    for step in (2, 4, 9, 10):
        checkpoint.save(tmp_path, step, engine, {}, keep=3)
    assert names(tmp_path) == ["step-10", "step-4", "step-9"]
    checkpoint.save(tmp_path, 8, engine, {}, keep=2)  # after a resume from 4
    assert names(tmp_path) == ["step-4", "step-8"]
    for step in (9, 12):
        checkpoint.save(tmp_path, step, engine, {}, keep=1, best=4)
    assert names(tmp_path) == ["step-12", "step-4"]


def test_saving_a_step_again_replaces_it(engine, tmp_path):
    for cursor in (1, 2):
        checkpoint.save(tmp_path, 3, engine, {"cursor": cursor})
    assert names(tmp_path) == ["step-3"]
    assert latest(tmp_path).state == {"cursor": 2}


def names(directory):
    return sorted(p.name for p in directory.iterdir())


def test_a_crash_between_the_two_renames_loses_nothing(engine, tmp_path):
    kept = checkpoint.save(tmp_path, 3, engine, {"cursor": 1})
    kept.path.rename(tmp_path / "step-3.replaced")
    (tmp_path / ".step-3.1.partial").mkdir()
    assert latest(tmp_path).state == {"cursor": 1}
    checkpoint.save(tmp_path, 4, engine, {})
    assert names(tmp_path) == ["step-3.replaced", "step-4"]


@pytest.mark.slow
async def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(engine, start, tmp_path):
    environment = {"OMP_NUM_THREADS": "1"}
    script = child("checkpoint_writer.py", str(start), str(tmp_path), environment=environment, patience_seconds=120)
    async with script as writer:
        await writer.until("saved 3")
        writer.signal(signal.SIGKILL)
        await writer.exit_code()
    found = latest(tmp_path)
    assert found.step >= 3 and found.state == {"cursor": found.step}
    checkpoint.save(tmp_path, found.step + 1, engine, {}, keep=1)
    assert names(tmp_path) == [f"step-{found.step + 1}"]


def test_where_all_are_broken_each_is_named_and_nobody_starts_anew_by_chance(engine, tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, engine, {})
    (tmp_path / "step-1" / "training" / "rng.safetensors").unlink()
    shard = tmp_path / "step-2" / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(
        StateCorrupt, match=r"none is whole: step-2 \(.*not \d+\); step-1 \(.*is missing\).*--overwrite"
    ):
        latest(tmp_path)


def store_beside(tmp_path, engine):
    """A run at step 2 with a checkpoint of step 1, whose copy of the store has one group in the queue."""
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    store = SqliteStore(paths.store)
    for name in ("a", "b"):
        store.receive(GroupInfo(group_id=name), b"payload")
    store.consume(["a"], step=1)
    mark = store.mark()
    kept = checkpoint.save(
        paths.checkpoints,
        1,
        engine,
        {},
        beside=lambda place: store.copy_to(place / STORE_FILE, step=1),
    )
    store.consume(["b"], step=2)
    return paths, store, mark, kept


def test_a_checkpoint_is_sealed_with_its_copy_of_the_store(engine, tmp_path):
    paths, store, _, kept = store_beside(tmp_path, engine)
    store.close()
    assert latest(paths.checkpoints).path == kept.path
    assert list(kept.store_path.parent.glob("groups.sqlite*")) == [kept.store_path]
    copy = kept.store_path.read_bytes()
    kept.store_path.write_bytes(copy[:-1] + bytes([copy[-1] ^ 1]))
    with pytest.raises(StateCorrupt, match=r"groups\.sqlite"):
        open_checkpoint(kept.path)


@pytest.mark.parametrize("loss", ["none", "file", "damage"])
def test_the_copy_takes_the_place_of_a_store_whatever_became_of_it(engine, tmp_path, loss):
    paths, store, mark, kept = store_beside(tmp_path, engine)
    if loss == "file":
        store.close()
        paths.store.unlink()
    elif loss == "damage":
        paths.store.write_bytes(b"nothing")  # its journals stay behind
    assert store_copy.restore_store(SqliteBackend(), paths)[0] == 1
    again = SqliteStore(paths.store)
    assert again.marked() == mark
    again.rollback(1)
    assert [group.group_id for group in again.queued()] == ["b"]
    again.close()
    assert kept.store_path.exists()
    assert paths.store.with_name("groups.sqlite.replaced").exists() == (loss != "file")
    store.close()


def test_without_a_copy_there_is_nothing_to_restore(engine, tmp_path):
    paths = RunPaths(tmp_path / "run")
    with pytest.raises(StateCorrupt, match="--restore-store: no checkpoint"):
        store_copy.restore_store(SqliteBackend(), paths)
    checkpoint.save(paths.checkpoints, 1, engine, {})
    with pytest.raises(StateCorrupt, match="--restore-store: no checkpoint"):
        store_copy.restore_store(SqliteBackend(), paths)
