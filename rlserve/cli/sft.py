"""``rlserve sft``: supervised fine-tuning of a checkpoint; the loss is on completions only."""

import argparse
from pathlib import Path

from rlserve.cli.stages import add_common_arguments, load_table, print_progress
from rlserve.config.tables.pretrain import SftConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common_arguments(parser, "sft")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face checkpoint to start from")


def run(arguments: argparse.Namespace) -> int:
    config = load_table(arguments, "sft", SftConfig)
    # After load_table: a faulty table is reported before the seconds of importing torch.
    from rlserve.pretrain.sft import sft

    path = sft(config, arguments.model, arguments.out, arguments.seed, print_progress)
    print(f"model {path}")
    return 0
