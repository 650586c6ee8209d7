r"""Reads times of day: ``4:30`` is half past four and not twice ``2:15``.

A ratio looks the same. Where one side can only be a ratio (``4:5``), both are read as ratios; where both may be times,
both are read as times. One side may leave out morning or afternoon; ``16:30`` gives its half of the day itself.
"""

import math
import re
from dataclasses import dataclass

from rlserve.verifiers.math.notation.normalize import TEXT_GROUP

HALF_DAY = 12 * 3600
"""Seconds by which a.m. and p.m. differ."""
# Two digits for minutes: "4:5" is a ratio. A point instead of the colon only before a.m. or p.m.: "4.30" is a number.
CLOCK = re.compile(
    r"(?P<hour>[0-9]{1,2})"
    r"(?: ?: ?(?P<minute>[0-5][0-9])(?: ?: ?(?P<second>[0-5][0-9]))?|\.(?P<dotted>[0-5][0-9])(?= ?[ap]))?"
    r"(?P<tail> ?(?:[ap]\.? ?m\.?|o'clock)(?: (?:in the (?:morning|afternoon|evening)|at night))?"
    r"| ?in the (?:morning|afternoon|evening)| noon)?",
    re.IGNORECASE,
)
NAMED = {"noon": "12:00 pm", "midday": "12:00 pm", "midnight": "12:00 am", "12 noon": "12:00 pm"}


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day."""

    seconds: int
    """Seconds since midnight; since midnight or noon when the half of the day is not known."""
    half_known: bool
    terms: tuple[int, ...] | None = None
    """The numbers of a text with only numbers and colons, which may be a ratio; None for any other text."""

    @property
    def may_be_ratio(self) -> bool:
        """True where the numbers have no common divisor: a gold answer gives a ratio in lowest terms."""
        return self.terms is not None and math.gcd(*self.terms) == 1

    def same_time(self, other: "Clock") -> bool:
        """True when both may name the same time."""
        if self.half_known and other.half_known:
            return self.seconds == other.seconds
        return self.seconds % HALF_DAY == other.seconds % HALF_DAY


def read_clock(text: str) -> Clock | None:
    """Return the time of day of normalised ``text``; None when it is no time."""
    plain = re.sub(" +", " ", TEXT_GROUP.sub(r" \1", text)).strip()
    match = CLOCK.fullmatch(NAMED.get(plain.lower(), plain))
    if match is None:
        return None
    tail = (match["tail"] or "").strip().lower()
    minute = match["minute"] or match["dotted"]
    hour = int(match["hour"])
    if (minute is None and not tail) or hour > 24 or (tail and not 1 <= hour <= 12):
        return None  # a bare number, or a ratio such as 30:45
    afternoon = tail.startswith("p") or "afternoon" in tail or "evening" in tail or tail == "noon" or "night" in tail
    morning = tail.startswith("a") or "morning" in tail
    half_known = morning or afternoon or hour > 12 or hour == 0
    if afternoon or morning:
        # 12 a.m. is midnight and 12 p.m. is noon.
        hour = hour % 12 + 12 * afternoon
    terms = None if tail else tuple(int(match[name]) for name in ("hour", "minute", "second") if match[name])
    seconds = hour % 24 * 3600 + int(minute or 0) * 60 + int(match["second"] or 0)
    return Clock(seconds, half_known, terms)
