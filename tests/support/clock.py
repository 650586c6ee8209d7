"""Time that a test moves by hand."""


class ManualClock:
    """Seconds that stand still until :meth:`advance`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
