"""Where an answer stands in a text, for verifiers that compare texts."""


def after_marker(text: str, marker: str) -> str | None:
    """What follows the last ``marker``, stripped; None when the marker is absent. An empty marker means all."""
    if not marker:
        return text.strip()
    _, found, rest = text.rpartition(marker)
    return rest.strip() if found else None
