"""The proof: walls that stand are proven, and holes that are made on purpose are found."""

import os
import struct
from collections.abc import Iterator

import pytest

from rlserve.errors import NotReady, Unavailable
from rlserve.sandbox.sandbox import Sandbox, start_zygote, survey
from rlserve.sandbox.walls import proof
from rlserve.sandbox.walls.tiers import Tier, bubblewrap, real_python, settings_of
from rlserve.sandbox.zygote import Zygote

SYSTEM_PYTHON = "/usr/bin/python3"
ALLOW_ALL = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000).hex()


def python_for_everyone() -> str:
    """An interpreter that a user without rights can read: the weaker tiers need one when we are root."""
    for found in (real_python(), os.path.realpath(SYSTEM_PYTHON)):
        parts = found.split("/")
        folders = ["/".join(parts[:n]) or "/" for n in range(1, len(parts))]
        if os.path.exists(found) and all(os.stat(folder).st_mode & 0o001 for folder in folders):
            return found
    pytest.skip("no interpreter here is readable for everyone")


@pytest.fixture(params=list(Tier))
def zygote(request: pytest.FixtureRequest) -> Iterator[Zygote]:
    tier: Tier = request.param
    if tier is Tier.BUBBLEWRAP and bubblewrap() is None:
        pytest.skip("bwrap is not installed")
    with start_zygote(tier, python=real_python() if tier is Tier.NAMESPACES else python_for_everyone()) as found:
        yield found


def test_the_walls_of_each_tier_hold(zygote: Zygote) -> None:
    assert proof.holes(zygote) == []
    assert zygote.num_processes() == 0


@pytest.mark.parametrize(
    ("tier", "weakened", "holes"),
    [
        (Tier.LANDLOCK, {"landlock": False}, {"reads a file outside"}),
        (Tier.NAMESPACES, {"seccomp": ALLOW_ALL}, {"holds shared memory", "makes a user namespace"}),
    ],
)
def test_a_wall_that_is_missing_is_found(tier: Tier, weakened: dict[str, object], holes: set[str]) -> None:
    python = python_for_everyone()
    settings = dict(settings_of(tier, python=python)) | weakened
    with Zygote(settings, python=python) as found:
        assert holes <= set(proof.holes(found))


def test_below_the_lowest_tier_no_code_is_run() -> None:
    with pytest.raises(NotReady, match=r"no isolation .* holds on this machine, so no code is run"):
        Sandbox(minimum=Tier.LANDLOCK, python="/nowhere/bin/python3")


def test_a_stronger_minimum_refuses_a_weaker_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlserve.sandbox.sandbox.proof.holes", lambda zygote: ["a planted hole"])
    with pytest.raises(NotReady, match="namespaces: a planted hole") as refused:
        Sandbox(minimum=Tier.NAMESPACES)
    assert "landlock" not in str(refused.value)


def test_the_survey_names_every_tier() -> None:
    found = survey()
    assert set(found) == set(Tier)
    assert "" in found.values()


def test_a_zygote_that_cannot_start_says_why() -> None:
    with pytest.raises(Unavailable, match="cannot start its interpreter"):
        start_zygote(Tier.NAMESPACES, python="/nowhere/python3")
