"""Fine-tunes any Hugging Face causal language model on prompt and completion pairs."""

from pathlib import Path

from rlserve.config.tables.pretrain import SftConfig
from rlserve.pretrain.accuracy import accuracy_check
from rlserve.pretrain.checkpoint import load_checkpoint, require_free, save_checkpoint
from rlserve.pretrain.corpus import open_corpus
from rlserve.pretrain.data import pair_batches
from rlserve.pretrain.stage import Report, run_stage


def sft(config: SftConfig, start: Path, out: Path, seed: int, report: Report) -> Path:
    """Train the checkpoint ``start`` on the corpus, loss only on completions; save it as the new directory ``out``.

    Sequences are cut to the model's context. The same configuration, start, seed and number of threads give the
    same weights.
    """
    require_free(out)  # before the training and not only when it saves
    stage = config.stage
    model, tokenizer = load_checkpoint(start)
    # The model's own limit: a checkpoint from elsewhere may have a shorter context than the run's.
    max_length = model.config.max_position_embeddings
    corpus = open_corpus(stage.corpus, seed=seed)
    batches = pair_batches(corpus, tokenizer, batch_size=stage.batch_size, max_length=max_length)
    check = accuracy_check(model, tokenizer, corpus, stage, max_length=max_length, seed=seed)
    run_stage(model, batches, stage, check=check, report=report)
    return save_checkpoint(model, tokenizer, out)
