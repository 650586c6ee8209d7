"""Misbehaving verifiers, installed for the length of a test."""

from pathlib import Path

import odd_verifiers
import pytest


@pytest.fixture
def odd_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points ``odd``, ``blaming`` and ``broken``, here and in every worker."""
    site = tmp_path / "site"
    site.mkdir()
    odd_verifiers.install(site)
    monkeypatch.syspath_prepend(str(site))
