"""``rlserve pretrain``: trains a tokenizer and a small language model from scratch."""

import argparse

from rlserve.cli.stages import add_common_arguments, load_table, print_progress
from rlserve.config.tables.pretrain import PretrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "pretrain")
    parser.add_argument("--max-length", type=int, default=512, help="context of the model in tokens")


def run(arguments: argparse.Namespace) -> int:
    config = load_table(arguments, "pretrain", PretrainConfig)
    # After load_table: a faulty table is reported before the seconds of importing torch.
    from rlserve.pretrain.train import pretrain

    path = pretrain(config, arguments.out, arguments.seed, arguments.max_length, print_progress)
    print(f"model {path}")
    return 0
