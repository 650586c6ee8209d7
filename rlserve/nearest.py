"""What somebody who typed an unknown name probably meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is spelt most like ``name``; empty when none is near."""
    candidates = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), list(candidates), n=1, cutoff=0.6)
    return candidates[found[0]] if found else ""


def known_names(name: str, known: Iterable[str]) -> str:
    """What follows "is unknown": ``"; did you mean 'grpo'? (known: cispo, grpo)"``, or the known names alone."""
    names = sorted(known)
    near = nearest(name, names)
    listed = f"(known: {', '.join(names) or 'none'})"
    return f"; did you mean {near!r}? {listed}" if near else f" {listed}"
