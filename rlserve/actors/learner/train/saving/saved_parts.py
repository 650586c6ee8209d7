"""Reads stretches of tensors that several ranks wrote in parts."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from rlserve.errors import StateCorrupt


class SavedParts:
    """The parts in safetensors files whose names are ``<name>@<start>``; only what is asked for is read.

    Example, 10 elements that two ranks wrote in halves::

        SavedParts(files).read("exp_avg/model.norm.weight", 3, 8)    # [5]: two of the first half, three of the second
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._parts: dict[str, list[tuple[int, int, Any]]] = defaultdict(list)
        for file in files:
            opened: Any = safe_open(file, framework="pt")
            for key in opened.keys():  # noqa: SIM118  # it is no mapping
                name, _, start = key.rpartition("@")
                values = opened.get_slice(key)
                self._parts[name].append((int(start), int(start) + values.get_shape()[0], values))
        for found in self._parts.values():
            found.sort(key=lambda part: part[:2])

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """``[stop - start]`` float32. Raises StateCorrupt when elements are missing."""
        read, at = torch.empty(stop - start), start
        for first, end, values in self._parts.get(name, ()):
            if first <= at < end:
                until = min(end, stop)
                read[at - start : until - start] = values[at - first : until - first]
                at = until
            if at == stop:
                return read
        raise StateCorrupt(
            f"checkpoint: elements {at} to {stop} of {name} are missing; it was made of another model or configuration"
        )
