"""Rows of a data set, from JSON lines and from all that the library ``datasets`` loads.

A path is a file (JSON lines, JSON, CSV, TSV, Parquet, Arrow), a folder that ``save_to_disk`` wrote, a folder in the
form of a Hub repository, or a name on the Hub. JSON lines are read here and not by ``datasets``: errors then name the
line, numbers stay as they are written, and objects keep exactly their own keys.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlserve import hugging_face
from rlserve.errors import InvalidRequest
from rlserve.text_files import json_object, lines_of, read_text

BUILDERS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow", ".json": "json"}
"""Loaders of ``datasets`` by the end of a file's name; any other file is read as JSON lines."""
LINES = (".jsonl", ".ndjson")
SIGNS = {"split": "Unknown split", "name": "BuilderConfig", "revision": "evision"}
"""Option that is at fault, by words of the error that ``datasets`` raises for it."""
MAX_REASON_CHARACTERS = 300
"""Of another library's error. Any value of this size will do: a line for a person."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One split of a data set."""

    path: str
    name: str = ""
    """Configuration of a Hub repository or of a folder in its form."""
    split: str = "train"
    """Split, with a slice if wanted (``train[:100]``); of a folder or a Hub name only."""
    revision: str = ""
    """Branch, tag or commit of a Hub name."""
    texts: tuple[str, ...] = ()
    """Columns of a CSV file that stay text as written; otherwise ``007`` would become 7."""


def read(source: Source) -> Iterator[tuple[str, Row]]:
    """Each row and its place, ``"line 3"`` or ``"row 3"``, counted from 1. Raises InvalidRequest."""
    path = Path(source.path).expanduser()
    if not (path.exists() or _is_a_path(source.path)):
        rows = _from_hub(source)
    elif path.is_dir():
        _refuse(source, "revision")
        rows = _from_folder(path, source)
    else:
        _refuse(source, "name", "revision")
        if source.split != "train":
            raise InvalidRequest(
                f"split: is {source.split!r}, but {source.path!r} is one file; hold out a share of it with "
                "test_fraction, or another file with test_path",
                field="split",
            )
        builder = BUILDERS.get(path.suffix.lower())
        if builder is None or not path.exists():
            yield from _lines(source)
            return
        rows = _from_file(path, builder, source)
    for number, row in enumerate(rows, start=1):
        # Arrow gives every object of a column the keys of all of them, the absent ones as null.
        yield f"row {number}", {column: _without_nulls(value) for column, value in row.items()}


def _is_a_path(text: str) -> bool:
    """Whether ``text``, of which there is neither file nor folder, can only be a path; else it may be a Hub name."""
    suffix = Path(text).suffix.lower()
    return suffix in BUILDERS or suffix in LINES or text.startswith(("/", ".", "~")) or text.count("/") > 1


def _refuse(source: Source, *fields: str) -> None:
    for field in fields:
        if value := getattr(source, field):
            what = "a Hub name" if field == "revision" else "a folder or a Hub name"
            raise InvalidRequest(f"{field}: is {value!r}, but {source.path!r} is not {what}; leave it out", field=field)


def _lines(source: Source) -> Iterator[tuple[str, Row]]:
    try:
        text = read_text(Path(source.path).expanduser())
    except InvalidRequest as error:
        raise InvalidRequest(f"path: {error}; give JSON lines, CSV, Parquet or a folder", field="path") from None
    for number, line in lines_of(text):
        try:
            row = json_object(line)
        except InvalidRequest as error:
            raise InvalidRequest(f"path: {source.path!r}, line {number}: {error}", field="path") from None
        yield f"line {number}", row


def _from_file(path: Path, builder: str, source: Source) -> Iterator[Row]:
    options: dict[str, Any] = {}
    if builder == "csv":
        # An empty cell is an empty text, and "None" or "NA" may be an answer.
        options = {"keep_default_na": False, "converters": dict.fromkeys(source.texts, str)}
        options |= {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    # As a stream: a file that is read once needs no copy in the cache.
    with _explained(source):
        datasets = _datasets()
        yield from datasets.load_dataset(builder, data_files=str(path), split="train", streaming=True, **options)


def _from_folder(path: Path, source: Source) -> Iterator[Row]:
    with _explained(source):
        datasets = _datasets()
        if not any((path / file).exists() for file in ("dataset_dict.json", "state.json")):
            # A cache of its own: the library takes folders with the same names inside for the same data set, and would
            # not see that a file has changed. An absolute path: a relative one could be taken for a Hub name.
            with tempfile.TemporaryDirectory(prefix="rlserve-data-") as cache:
                yield from datasets.load_dataset(
                    str(path.resolve()), source.name or None, split=source.split, cache_dir=cache
                )
            return
        saved = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.DatasetDict):
            if source.split not in saved:
                raise InvalidRequest(
                    f"split: {source.split!r} is not in {source.path!r} (it has {', '.join(saved)})", field="split"
                )
            saved = saved[source.split]
        elif source.split != "train":
            raise InvalidRequest(
                f"split: is {source.split!r}, but {source.path!r} is one saved split; hold out a share of it with "
                "test_fraction",
                field="split",
            )
        yield from saved


def _from_hub(source: Source) -> Iterator[Row]:
    here = f"there is no file or folder {source.path!r}"
    is_online = hugging_face.answers()
    if not is_online and not _is_cached(source.path):
        raise InvalidRequest(
            f"path: {here}, and as a Hub name it is not in the cache and the Hub cannot be reached from here; give a "
            "path, or fetch it where there is a network and copy it (rlserve data fetch)",
            field="path",
        )
    datasets = _datasets()
    with _explained(source, here=here), hugging_face.from_the_cache(not is_online):
        loaded = datasets.load_dataset(
            source.path, source.name or None, split=source.split, revision=source.revision or None
        )
    yield from loaded


def _is_cached(name: str) -> bool:
    # Where `datasets` looks without a network. Its own constant costs an import of seconds before the message.

    from huggingface_hub import constants

    cache = os.environ.get("HF_DATASETS_CACHE") or str(Path(constants.HF_HOME) / "datasets")
    return (Path(cache) / name.replace("/", "___")).is_dir()


@contextmanager
def _explained(source: Source, *, here: str = "") -> Iterator[None]:
    """Errors of ``datasets`` as InvalidRequest with the reason, which is often in the error's cause."""
    try:
        yield
    except InvalidRequest:
        raise
    except Exception as error:
        causes: list[BaseException] = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)
        # The first that names an option; else the deepest, which is the reason of the others.
        signs = [(f, cause) for cause in causes for f, sign in SIGNS.items() if sign in str(cause)]
        field, cause = signs[0] if signs else ("path", causes[-1])
        said = " ".join(str(cause).split())[:MAX_REASON_CHARACTERS]
        # With an option at fault the data set itself was found.
        where = here if here and not signs else f"{source.path!r} cannot be loaded"
        raise InvalidRequest(f"{field}: {where} ({type(cause).__name__}: {said})", field=field) from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _datasets() -> Any:
    """The library, which is imported only for files that need it; quiet, as its bars would fill a log."""
    try:
        import datasets
    except ImportError:
        raise InvalidRequest(
            "path: only JSON lines can be read here, because the package `datasets` is not installed; "
            "pip install 'rlserve[environments]'",
            field="path",
        ) from None
    datasets.disable_progress_bars()
    # It would call a server at every load, of a local file too, to count it: seconds without a network.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    # It would print its own account of an error, beside the message of this module.
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets
