"""Columns and fields agree, and a field's mark alone decides how the scorer treats it."""

from dataclasses import dataclass, fields

import pytest
import torch

from rlserve.actors.learner.train.scorer import Scorer, load_model, scored_places
from rlserve.algorithms.batch import PolicyOutputs, TokenBatch, TokenMask, per_token_fields
from rlserve.batching.tensors import COLUMNS
from rlserve.config.tables.learner import LearnerConfig
from tests.support.models.learner_work import random_batch, save_policy

NOT_FROM_SEQUENCES = {"token_ids", "position_ids", "proximal_logprobs"}
"""Laid out beside the columns; the last is scored by the learner."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Extended(TokenBatch):
    """A batch with two fields that no part of the learner knows."""

    row_bonus: torch.Tensor
    """``[B]``."""
    probed: TokenMask
    """``[B, T]``."""


def extended() -> Extended:
    batch = random_batch(0)
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    probed = torch.zeros_like(batch.loss_mask)
    probed[1, 3] = 1
    values["loss_mask"] = torch.zeros_like(batch.loss_mask)
    return Extended(**values, row_bonus=torch.arange(float(len(batch.token_ids))), probed=probed)


def test_every_per_token_field_has_a_column():
    assert set(per_token_fields(TokenBatch)) == set(COLUMNS) | NOT_FROM_SEQUENCES


@pytest.mark.parametrize("record", [TokenBatch, PolicyOutputs])
def test_every_tensor_of_a_micro_batch_is_marked_as_per_token(record):
    tensors = {f.name for f in fields(record) if "Tensor" in str(f.type)}
    assert tensors == set(per_token_fields(record))


def test_a_field_of_rows_is_left_whole_and_a_mask_of_any_name_is_scored(tmp_path):
    model = load_model(str(save_policy(tmp_path)), LearnerConfig(dtype="float32"))
    batch = extended()
    assert scored_places(batch).tolist() == [batch.token_ids.shape[1] + 3]
    outputs = Scorer.around(model, torch.device("cpu"))(batch, needs=())
    assert outputs.logprobs.nonzero().tolist() == [[1, 3]]
