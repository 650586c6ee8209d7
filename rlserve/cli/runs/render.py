"""``rlserve render``: manifests of a run for a cluster, from the plan that ``rlserve run`` starts."""

import argparse
import importlib
from pathlib import Path

from rlserve import __version__
from rlserve.config.load import load_run
from rlserve.errors import InvalidRequest

FORMATS = ("k8s", "kuberay", "slurm", "compose")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("config", nargs="+", help="TOML files, later ones over earlier ones, or shipped ones by name")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--unset", action="append", default=[], metavar="KEY")
    parser.add_argument("--out", type=Path, help="directory for the files; default: NAME-FORMAT")
    parser.add_argument("--image", default=f"rlserve:{__version__}", help="container image with rlserve in it")
    parser.add_argument("--cpu", action="store_true", help="for machines without GPUs")
    parser.add_argument(
        "--token-secret", default="", help="k8s, kuberay: the secret with the key `token`; default: NAME-token"
    )
    parser.add_argument(
        "--data", default="", metavar="CLAIM", help="k8s: a volume claim with the files that CONFIG names"
    )


def run(arguments: argparse.Namespace) -> int:
    from rlserve.launch.render.roles import Options

    config = load_run(arguments.config, arguments.overrides, arguments.unset)
    options = Options(
        image=arguments.image,
        accelerators=not arguments.cpu,
        token_secret=arguments.token_secret,
        data=arguments.data,
    )
    files = importlib.import_module(f"rlserve.launch.render.{arguments.format}").files(config, options)
    out = arguments.out or Path(f"{config.name}-{arguments.format}")
    if out.exists() and not out.is_dir():
        raise InvalidRequest(f"--out: {str(out)!r} is a file; give a directory")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
        print(out / name)
    return 0
