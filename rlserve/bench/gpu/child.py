"""One stage in this process: ``python -m rlserve.bench.gpu.child NAME --out DIRECTORY``."""

import argparse
import importlib
from pathlib import Path

from rlserve.bench.gpu.rows import write_rows
from rlserve.bench.gpu.sizes import GPU, REHEARSAL
from rlserve.launch.gpus import visible_gpus


def main() -> None:
    """Write the rows of one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    # Imported one by one: each stage loads other libraries.
    stage = importlib.import_module(f"rlserve.bench.gpu.{arguments.stage}")
    sizes = GPU if visible_gpus() else REHEARSAL
    write_rows(arguments.out, arguments.stage, stage.measure(sizes, arguments.out))


if __name__ == "__main__":
    main()
