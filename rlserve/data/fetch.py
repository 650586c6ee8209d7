"""Writes a well-known data set as JSON lines, and reads them as its environment will."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlserve import hugging_face, plugins
from rlserve.data.known import KnownSet
from rlserve.data.source import Source, read
from rlserve.errors import InvalidRequest


def fetch(name: str, known: KnownSet, directory: Path, *, copy: str = "") -> dict[str, str]:
    """Write the files of a data set to ``directory``; returns the options of its environment.

    ``copy`` is a folder in the form of the Hub's repository, or one file of an only split; empty: the Hub. No file is
    there unless all were read without a fault. Raises InvalidRequest.
    """
    options = {option: str(directory / file) for file, option in known.files.values()}
    if there := [path for path in options.values() if Path(path).exists()]:
        raise InvalidRequest(f"--to: {there[0]!r} is there already; delete it to fetch it again, or give another --to")
    directory.mkdir(parents=True, exist_ok=True)
    partial = {option: f"{path}.partial" for option, path in options.items()}
    try:
        for split, (_, option) in known.files.items():
            _write(Path(partial[option]), known, split, copy)
        # The environment's own checks, before a run depends on the files.
        plugins.make(plugins.ENVIRONMENT_GROUP, name, partial, where=f"data fetch {name}")
        for option, path in options.items():
            Path(partial[option]).replace(path)
    finally:
        for path in partial.values():
            with suppress(FileNotFoundError):
                Path(path).unlink()
    return options


def _write(path: Path, known: KnownSet, split: str, copy: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        for part in known.names:
            for row in _rows(known, part, split, copy):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rows(known: KnownSet, part: str, split: str, copy: str) -> list[Mapping[str, Any]]:
    if copy:
        # Only a folder's README names configurations and splits; a file is the only split of its data set.
        is_folder = Path(copy).is_dir()
        source = Source(path=copy, name=part, split=split) if is_folder else Source(path=copy)
        return [row for _, row in read(source)]
    try:
        return [row for _, row in read(Source(path=known.repository, name=part, split=split))]
    except InvalidRequest:
        if hugging_face.answers():
            raise
        raise InvalidRequest(
            f"the Hub ({hugging_face.endpoint()}) cannot be reached from here; fetch the data where there is a network "
            f"and copy the files, or give a copy of datasets/{known.repository} with --from"
        ) from None
