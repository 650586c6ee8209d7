"""Plug-ins are found by name, no name means two of them, and the pages name each built-in one with all its options."""

import inspect
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from rlserve import plugins
from rlserve.errors import PluginFailed

ROOT = Path(__file__).parents[1]
PAGES = {
    plugins.ENVIRONMENT_GROUP: ROOT / "environments" / "README.md",
    plugins.VERIFIER_GROUP: ROOT / "verifiers" / "README.md",
}
NOT_FOR_USERS = {"turn_end"}
"""Options that the tokenizers made here need, no other."""


def registered(group: str, site: Path, line: str) -> None:
    """A distribution in ``site`` that registers ``line``."""
    info = site / "theirs-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n")


def test_a_name_that_two_packages_register_is_refused_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(plugins.VERIFIER_GROUP, tmp_path, "length = their_package:LengthVerifier")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginFailed, match="'length' is registered twice") as refused:
        plugins.load(plugins.VERIFIER_GROUP, "length")
    assert "their_package:LengthVerifier of 'theirs'" in str(refused.value) and "of 'rlserve'" in str(refused.value)
    assert plugins.names(plugins.VERIFIER_GROUP).count("length") == 1


def test_one_class_registered_twice_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (point,) = entry_points(group=plugins.VERIFIER_GROUP, name="length")
    registered(plugins.VERIFIER_GROUP, tmp_path, f"length = {point.value}")
    monkeypatch.syspath_prepend(tmp_path)
    assert plugins.load(plugins.VERIFIER_GROUP, "length").name == "length"


@pytest.mark.parametrize("group", PAGES)
def test_every_built_in_plug_in_is_documented_with_its_options(group: str) -> None:
    page = PAGES[group].read_text(encoding="utf-8")
    for point in entry_points(group=group):
        if not (point.dist and point.dist.name == "rlserve"):
            continue
        row = re.search(rf"^\| `{point.name}` \|.*$", page, re.MULTILINE)
        assert row, f"{point.name} is not in {PAGES[group].name} of {group}"
        plugin = plugins.load(group, point.name)
        # In its row, in a table of its own, or in the docstring to which the page refers.
        said = f"{row[0]}\n{plugin.__doc__}\n{plugin.__init__.__doc__}"
        for option in inspect.signature(plugin).parameters:
            found = re.search(rf"\b{option}\b", said) or re.search(rf"^\|[^|]*`{option}`", page, re.MULTILINE)
            assert option in NOT_FOR_USERS or found, f"{point.name}: {option}"
