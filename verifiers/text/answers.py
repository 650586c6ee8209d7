"""Finds the answer in a text, for verifiers that compare texts."""


def after_marker(text: str, marker: str) -> str | None:
    """Return the stripped text behind the last ``marker``; None without one. An empty marker takes the whole text."""
    if not marker:
        return text.strip()
    # The last one: earlier markers are steps on the way.
    _, found, rest = text.rpartition(marker)
    return rest.strip() if found else None
