"""Plug-ins of a module of this folder, installed like a stranger's package: by entry points."""

from collections.abc import Mapping
from pathlib import Path


def install_distribution(site: Path, name: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Make ``name`` a distribution in ``site``, which must be on ``sys.path``; a target by name, by group."""
    info = site / f"{name.replace('-', '_')}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    lines: list[str] = []
    for group, targets in entry_points.items():
        lines += [f"[{group}]", *(f"{plugin} = {target}" for plugin, target in targets.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
