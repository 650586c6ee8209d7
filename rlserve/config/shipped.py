"""The configurations that are installed with the package, by name."""

from collections.abc import Mapping
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "configs"


def shipped() -> Mapping[str, Path]:
    """``quickstart``, ``gpu/gsm8k_qwen``, ...: the name of each configuration and its file."""
    files = sorted(SHIPPED.rglob("*.toml"), key=lambda file: (len(file.parts), file.name))
    return {file.relative_to(SHIPPED).with_suffix("").as_posix(): file for file in files}


def found(path: Path) -> Path:
    """``path``, or the shipped configuration of that name when there is no such file here.

    ``quickstart`` and ``configs/quickstart.toml`` name the same, from a checkout and from an installed wheel alike.
    """
    if path.exists() and not (path.is_dir() and path.as_posix() in shipped()):
        return path
    inside = path.relative_to(SHIPPED.name) if path.parts[:1] == (SHIPPED.name,) else path
    return shipped().get(inside.with_suffix("").as_posix() if inside.suffix == ".toml" else inside.as_posix(), path)
