"""Pretraining: from a configuration to a language model, from scratch."""

from pathlib import Path

from rlserve.config.tables.pretrain import PretrainConfig
from rlserve.pretrain.accuracy import accuracy_check
from rlserve.pretrain.checkpoint import require_free, save_checkpoint
from rlserve.pretrain.corpus import open_corpus, tokenizer_texts
from rlserve.pretrain.data import pretraining_batches
from rlserve.pretrain.model import new_model
from rlserve.pretrain.stage import Report, run_stage
from rlserve.pretrain.tokenizer import train_tokenizer


def pretrain(config: PretrainConfig, out: Path, seed: int, max_length: int, report: Report) -> Path:
    """Make a tokenizer and a model, train it on all tokens of the corpus, save both as the new directory ``out``.

    With ``config.stage.steps`` = 0 the model keeps its random weights. The same configuration, seed and number
    of threads give the same weights.
    """
    require_free(out)  # before the training and not only when it saves
    stage = config.stage
    corpus = open_corpus(stage.corpus, seed=seed)
    tokenizer = train_tokenizer(config.tokenizer, tokenizer_texts(corpus), max_length=max_length)
    # After the tokenizer, whose size is that of the embeddings.
    model = new_model(config.architecture, tokenizer, max_length=max_length, seed=seed)
    batches = pretraining_batches(corpus, tokenizer, batch_size=stage.batch_size, max_length=max_length)
    check = accuracy_check(model, tokenizer, corpus, stage, max_length=max_length, seed=seed)
    run_stage(model, batches, stage, check=check, report=report)
    return save_checkpoint(model, tokenizer, out)
