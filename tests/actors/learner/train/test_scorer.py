"""Scoring: what is computed where, packed rows, and models that cannot pack."""

from dataclasses import replace

import pytest
import torch

from rlserve.actors.learner.train.scorer import Scorer, check_packing, is_packed, load_model, scored_places
from rlserve.algorithms.batch import TokenBatch
from rlserve.algorithms.logprobs import policy_outputs
from rlserve.config.tables.learner import LearnerConfig
from rlserve.errors import ConfigError
from rlserve.models.scored_model import ScoredModel
from tests.support.models.learner_work import pick_rows, random_batch, save_policy

NEEDS = ("entropy", "log_partition")


def scorer_of(path, **settings):
    model = load_model(str(path), LearnerConfig(dtype="float32", **settings))
    return model, Scorer.around(model, torch.device("cpu"))


def packed(batch):
    """All sequences of a padded batch in one row."""
    here = batch.sequence_ids >= 0
    names = ("token_ids", "position_ids", "sequence_ids", "loss_mask", "behavior_logprobs", "advantages", "lag")
    return TokenBatch(**{name: getattr(batch, name)[here][None] for name in (*names, "temperatures")})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("start"))


def test_scoring_only_what_is_trained_on_changes_neither_value_nor_gradient(start):
    model, scorer = scorer_of(start)
    batch = random_batch(1, prompt=7)
    batch = replace(batch, loss_mask=batch.loss_mask * (batch.position_ids != 11))  # a hole in the middle
    results = []
    for whole in (False, True):
        if whole:
            hidden = model(input_ids=batch.token_ids).logits
            outputs = policy_outputs(hidden, batch, needs=NEEDS)
        else:
            outputs = scorer(batch, needs=NEEDS)
        parts = [(getattr(outputs, name) * batch.loss_mask) for name in ("logprobs", *NEEDS)]
        model.zero_grad()
        (parts[0].sum() + parts[2].square().sum()).backward()
        results.append([*parts, *(p.grad.clone() for p in model.parameters())])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=3e-6 * max(1.0, float(right.abs().max())))  # of float32


def test_tokens_of_every_mask_are_scored():
    batch = random_batch(0)
    nothing = torch.zeros_like(batch.loss_mask)
    supervised = nothing.clone()
    supervised[3, 2] = 0.5
    taught = nothing.clone()
    taught[:, 0] = 1  # nothing predicts the first
    batch = replace(batch, loss_mask=nothing, supervised_mask=supervised, teacher_mask=taught)
    assert scored_places(batch).tolist() == [3 * batch.token_ids.shape[1] + 2]


def test_a_batch_without_anything_to_train_on_gives_zeros_with_a_gradient(start):
    model, scorer = scorer_of(start)
    batch = random_batch(0)
    outputs = scorer(replace(batch, loss_mask=torch.zeros_like(batch.loss_mask)), needs=())
    assert not outputs.logprobs.any()
    outputs.logprobs.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@torch.no_grad()
def test_padding_is_not_seen(start):
    _, scorer = scorer_of(start)
    batch = random_batch(2)
    row = pick_rows(batch, slice(5, 6))
    length = int((row.sequence_ids >= 0).sum())
    row = replace(row, token_ids=torch.where(row.sequence_ids >= 0, row.token_ids, 63))  # other padding, alone
    alone = scorer(row, needs=()).logprobs
    among = scorer(batch, needs=()).logprobs
    torch.testing.assert_close(alone[0, :length], among[5, :length])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_packed_sequences_are_scored_as_if_alone(start, attention):
    _, scorer = scorer_of(start, attention=attention)
    batch = random_batch(3)
    row = packed(batch)
    assert is_packed(row) and not is_packed(batch)
    expected = scorer(batch, needs=()).logprobs * batch.loss_mask
    got = scorer(row, needs=()).logprobs * row.loss_mask
    torch.testing.assert_close(got[0], expected[batch.sequence_ids >= 0])
    check_packing(scorer, tolerance=1e-3)


def test_a_model_with_a_running_state_is_refused_for_packing(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path)
    _, scorer = scorer_of(tmp_path, attention="eager")
    with pytest.raises(ConfigError, match=r"learner\.packing"):
        check_packing(scorer, tolerance=1e-3)


SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "head_dim": 8}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
FAMILIES = {
    "Gemma2": {"final_logit_softcapping": 3.0},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0},
    "Phi": {},  # its head has a bias
    "FalconH1": {"lm_head_multiplier": 0.5, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_that_a_model_scales_or_caps_are_scored_as_it_makes_them(family):
    import transformers

    torch.manual_seed(0)
    changes = FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**SHAPE | HEADS | changes, initializer_range=0.5, pad_token_id=0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    scored = ScoredModel(model)
    scorer = Scorer.around(scored, torch.device("cpu"))
    assert scored.is_fused == (family != "FalconH1")  # it does more than this code knows, and logits are held whole
    batch = random_batch(1, rows=3)
    logits = model(input_ids=batch.token_ids).logits
    expected = policy_outputs(logits, batch, needs=NEEDS)
    got = scorer(batch, needs=NEEDS)
    for name in ("logprobs", *NEEDS):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name) * (batch.loss_mask != 0))
