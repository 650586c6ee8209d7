"""Plain data as YAML that people read: in the order given, with texts of several lines as blocks."""

from collections.abc import Sequence
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True  # the same labels stand in several objects, each of which is read alone


def _text(dumper: Any, value: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def written(documents: Sequence[Any]) -> str:
    """The documents as one file."""
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120))
