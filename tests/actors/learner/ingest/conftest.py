"""An inbox of its own for each test, and its store."""

from pathlib import Path

import pytest

from rlserve.actors.learner.ingest.inbox import Inbox
from tests.support.intake import make_inbox


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "groups.sqlite"


@pytest.fixture
def inbox(path: Path) -> Inbox:
    return make_inbox(path)
