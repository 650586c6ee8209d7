"""Checkpoints: exact resume in every ZeRO stage, whole or passed over, loadable by others."""

import hashlib
import json
import logging
import signal
import threading

import pytest
import torch

from rlserve.actors.checkpoints import STORE_FILE, latest, open_checkpoint
from rlserve.actors.learner import store_copy
from rlserve.actors.learner.train.engine import LearnerEngine
from rlserve.actors.learner.train.saving import shard_writer
from rlserve.actors.learner.train.saving.checkpoint import CheckpointWriter, Plan, restore
from rlserve.config.paths import RunPaths
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import StateCorrupt
from rlserve.store.base import GroupInfo
from rlserve.store.sqlite import SqliteStore
from rlserve.store.sqlite_backend import SqliteBackend
from tests.support.models.learner_work import policy_gradient, random_batch, save, save_policy, split
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
    kept = save(tmp_path, 4, whole, {"cursor": 7})
    halfway = weights_of(whole)
    train(whole, range(4, 8))

    found = latest(tmp_path)
    assert (found.path, found.step, found.state) == (kept.path, 4, {"cursor": 7})
    resumed = LearnerEngine(str(found.model_path), config, seed=1)
    restore(found, resumed)
    assert_same_bits(weights_of(resumed), halfway)
    assert resumed.optimizer_steps == 4
    train(resumed, range(4, 8))
    assert_same_bits(weights_of(resumed), weights_of(whole))
    assert_same_bits(state_of(resumed), state_of(whole))


def test_a_run_may_resume_in_another_stage(start, tmp_path):
    source = LearnerEngine(str(start), LearnerConfig(zero_stage=3, dtype="bfloat16"), seed=0)
    train(source, range(3))
    kept = save(tmp_path, 3, source, {})
    resumed = LearnerEngine(str(kept.model_path), LearnerConfig(zero_stage=0, dtype="bfloat16"), seed=0)
    restore(kept, resumed)
    assert_same_bits(weights_of(resumed), weights_of(source))
    assert_same_bits(state_of(resumed), state_of(source))


def test_others_load_the_model_by_the_usual_door(start, tmp_path):
    from transformers import AutoModelForCausalLM

    engine = LearnerEngine(str(start), LearnerConfig(dtype="bfloat16"), seed=0)
    train(engine, range(1))
    kept = save(tmp_path, 1, engine, {})
    model = AutoModelForCausalLM.from_pretrained(kept.model_path, dtype="auto")
    assert_same_bits({name: p.detach() for name, p in model.named_parameters()}, weights_of(engine))
    assert (kept.path / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    assert json.loads((kept.path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {p.suffix for p in kept.path.rglob("*") if p.is_file()} == {".json", ".safetensors"}


def test_a_model_of_several_shards_is_saved_and_restored(start, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("rlserve.actors.learner.train.saving.model_files.SHARD_BYTES", 20_000)
    engine = LearnerEngine(str(start), LearnerConfig(dtype="float32"), seed=0)
    train(engine, range(1))
    kept = save(tmp_path, 1, engine, {})
    assert len(list(kept.path.glob("model-*.safetensors"))) > 2
    model = AutoModelForCausalLM.from_pretrained(kept.model_path)
    assert_same_bits({name: p.detach() for name, p in model.named_parameters()}, weights_of(engine))
    again = LearnerEngine(str(kept.model_path), LearnerConfig(dtype="float32"), seed=0)
    restore(kept, again)
    assert_same_bits(state_of(again), state_of(engine))


def test_training_goes_on_while_the_state_of_its_step_is_written(start, tmp_path, monkeypatch):
    may_write, write = threading.Event(), shard_writer.write_file

    def slow(path, tensors):
        may_write.wait()
        return write(path, tensors)

    monkeypatch.setattr(shard_writer, "write_file", slow)
    engine = LearnerEngine(str(start), LearnerConfig(dtype="bfloat16"), seed=0)
    train(engine, range(2))
    weights, state = weights_of(engine), state_of(engine)
    saving, found = CheckpointWriter(engine), []
    saving.save(Plan(directory=tmp_path, step=2, state={}, saved=found.append))
    train(engine, range(2, 4))
    saving.check()
    assert (
        not found
        and latest(tmp_path) is None
        and not weights_of(engine)["model.norm.weight"].equal(weights["model.norm.weight"])
    )
    may_write.set()
    saving.wait()
    assert found == [latest(tmp_path)]
    again = LearnerEngine(str(found[0].model_path), LearnerConfig(dtype="bfloat16"), seed=0)
    restore(found[0], again)
    assert_same_bits(weights_of(again), weights)
    assert_same_bits(state_of(again), state)


def test_what_fails_beside_training_is_raised_and_leaves_nothing(engine, tmp_path, monkeypatch):
    def full(path, tensors):  # a real full disk is in the tests of a run
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_writer, "write_file", full)
    saving = CheckpointWriter(engine)
    saving.save(Plan(directory=tmp_path, step=2, state={}))
    with pytest.raises(OSError, match="No space left"):
        saving.wait()
    assert names(tmp_path) == []
    saving.wait()  # raised once
    with pytest.raises(ZeroDivisionError):  # raised by the training thread, in the middle
        saving.save(Plan(directory=tmp_path, step=3, state={}), beside=lambda _: 1 / 0)
    saving.close()
    assert names(tmp_path) == []


def test_copies_wait_for_room_that_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "SHARD_BYTES", 100)
    may_write, write = threading.Event(), shard_writer.write_file

    def slow(path, tensors):
        may_write.wait()
        return write(path, tensors)

    monkeypatch.setattr(shard_writer, "write_file", slow)
    writer = shard_writer.ShardWriter(tmp_path, buffer_bytes=500)
    given, entries = [], []

    def give():
        for number in range(20):
            given.append(number)  # its copy exists
            writer.add(tmp_path / f"{number}.safetensors", {"x": torch.full((25,), float(number))})
        writer.end()

    threads = [threading.Thread(target=give), threading.Thread(target=lambda: entries.append(writer.drain()))]
    for thread in threads:
        thread.start()
    threads[0].join(0.5)
    assert len(given) == 5  # one in hand, three that wait, one being written
    may_write.set()
    for thread in threads:
        thread.join()
    assert len(entries[0]) == 20
    for name, entry in entries[0].items():
        content = (tmp_path / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_files_are_those_of_the_formats_own_library(tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = {
        "b": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5),
        "half": torch.randn(3, 5).bfloat16(),
        "none": torch.zeros(0, 4),
        "ü": torch.arange(7),
        **{f"t{i}": torch.zeros(1, dtype=dtype) for i, dtype in enumerate(shard_writer.NAMES)},
    }
    shard_writer.write_file(tmp_path / "ours.safetensors", tensors)
    save_file(tensors, tmp_path / "theirs.safetensors")
    ours, theirs = (load_file(tmp_path / f"{name}.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys() == tensors.keys()
    assert all(ours[n].equal(t) and ours[n].dtype == t.dtype and ours[n].shape == t.shape for n, t in theirs.items())


def test_the_random_stream_goes_on_where_it_was(engine, tmp_path):
    torch.manual_seed(5)
    kept = save(tmp_path, 1, engine, {})
    expected = torch.rand(4)
    torch.manual_seed(6)
    restore(kept, engine)
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
        (lambda path: path.write_text('{"format": 2, "files": {}}'), "manifest.json", "lacks"),
        (lambda path: path.write_text('{"format": 99}'), "manifest.json", "format 99"),
    ],
)
def test_a_broken_newest_is_named_and_passed_over(engine, tmp_path, caplog, harm, file, told):
    older = save(tmp_path, 5, engine, {"cursor": 5})
    newest = save(tmp_path, 10, engine, {"cursor": 10})
    harm(newest.path / file)
    with caplog.at_level(logging.WARNING):
        assert latest(tmp_path) == older
    assert "step-10" in caplog.text and told in caplog.text
    with pytest.raises(StateCorrupt):
        open_checkpoint(newest.path)


def test_only_the_newest_are_kept_and_a_future_given_up_goes(engine, tmp_path):
    for step in (2, 4, 9, 10):
        save(tmp_path, step, engine, {}, keep=3)
    assert names(tmp_path) == ["step-10", "step-4", "step-9"]
    save(tmp_path, 8, engine, {}, keep=2)  # after a resume from 4
    assert names(tmp_path) == ["step-4", "step-8"]
    for step in (9, 12):
        save(tmp_path, step, engine, {}, keep=1, best=4)
    assert names(tmp_path) == ["step-12", "step-4"]


def test_saving_a_step_again_replaces_it(engine, tmp_path):
    for cursor in (1, 2):
        save(tmp_path, 3, engine, {"cursor": cursor})
    assert names(tmp_path) == ["step-3"]
    assert latest(tmp_path).state == {"cursor": 2}


def names(directory):
    return sorted(p.name for p in directory.iterdir())


def test_a_crash_between_the_two_renames_loses_nothing(engine, tmp_path):
    kept = save(tmp_path, 3, engine, {"cursor": 1})
    kept.path.rename(tmp_path / "step-3.replaced")
    (tmp_path / ".step-3.1.partial").mkdir()
    assert latest(tmp_path).state == {"cursor": 1}
    save(tmp_path, 4, engine, {})
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
    save(tmp_path, found.step + 1, engine, {}, keep=1)
    assert names(tmp_path) == [f"step-{found.step + 1}"]


def test_where_all_are_broken_each_is_named_and_nobody_starts_anew_by_chance(engine, tmp_path):
    for step in (1, 2):
        save(tmp_path, step, engine, {})
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
    kept = save(
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
    save(paths.checkpoints, 1, engine, {})
    with pytest.raises(StateCorrupt, match="--restore-store: no checkpoint"):
        store_copy.restore_store(SqliteBackend(), paths)
