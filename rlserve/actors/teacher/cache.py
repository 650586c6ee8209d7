"""Scores by content: a fixed model on the same tokens says the same again."""

from collections import OrderedDict

from rlserve.actors.teacher.scoring import Query, Scores


class ScoreCache:
    """Keeps the scores used last, up to a size in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Scores] = OrderedDict()
        self.num_bytes = 0
        self.hits = 0

    def get(self, query: Query) -> Scores | None:
        """What is known of a query, or None."""
        digest = query.digest
        found = self._entries.get(digest)
        if found is not None:
            self._entries.move_to_end(digest)
            self.hits += 1
        return found

    def put(self, query: Query, scores: Scores) -> None:
        """Remember, and forget what was used longest ago."""
        digest = query.digest
        if digest in self._entries or scores.num_bytes > self._max_bytes:
            return
        self._entries[digest] = scores
        self.num_bytes += scores.num_bytes
        while self.num_bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.num_bytes -= oldest.num_bytes
