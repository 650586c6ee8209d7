"""Suggests the known name that a user probably meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most similar to ``name``; empty if none is similar."""
    candidates = {candidate.lower(): candidate for candidate in known}
    # 0.6 is difflib's own default: below it, suggestions are more often wrong than helpful.
    found = difflib.get_close_matches(name.lower(), list(candidates), n=1, cutoff=0.6)
    return candidates[found[0]] if found else ""


def known_names(name: str, known: Iterable[str]) -> str:
    """The end of an "is unknown" message: ``"; did you mean 'grpo'? (known: grpo, kto)"``, or just the names."""
    names = sorted(known)
    near = nearest(name, names)
    listed = f"(known: {', '.join(names) or 'none'})"
    return f"; did you mean {near!r}? {listed}" if near else f" {listed}"
