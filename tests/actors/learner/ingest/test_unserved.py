"""Servers that the run needs and that are not there."""

from rlserve.actors.learner.ingest.unserved import PATIENCE_SECONDS, Unserved
from rlserve.records import EnvironmentSpec

MATH = EnvironmentSpec(name="sums", address="a:1", verifier="math")


class Scene:
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.unserved = Unserved(["sums"], lambda message, **fields: self.warnings.append(message))


def test_an_environment_that_nobody_serves_is_named_once_with_what_is_served() -> None:
    scene = Scene()
    other = EnvironmentSpec(name="guess", address="a:1")
    for second in range(60):
        scene.unserved.update([other], ["math"], second)
    assert scene.warnings == [
        "no server has offered environment 'sums' for 15 s (served are guess): its tasks wait; see the log of its "
        "server, or start one; what `rlserve env unregister` took out, `rlserve env register` brings back"
    ]
    assert scene.unserved.message == "no server offers environment 'sums'"


def test_so_is_a_verifier_of_an_environment() -> None:
    scene = Scene()
    for second in range(60):
        scene.unserved.update([MATH], [], second)
    (warning,) = scene.warnings
    assert warning.startswith("no server has offered verifier 'math' of environment 'sums' for 15 s (served are none)")


def test_a_server_that_starts_again_in_time_is_no_news_and_one_that_goes_again_is() -> None:
    scene = Scene()
    now = 0.0
    for _ in range(5):
        scene.unserved.update([], [], now)
        now += PATIENCE_SECONDS - 1
        scene.unserved.update([], [], now)
        scene.unserved.update([MATH], ["math"], now)
    assert scene.warnings == [] and scene.unserved.message == ""
    for _ in range(2):
        scene.unserved.update([MATH], [], now)
        now += PATIENCE_SECONDS
        scene.unserved.update([MATH], [], now)
        scene.unserved.update([MATH], ["math"], now)
    assert len(scene.warnings) == 2 and scene.unserved.message == ""


def test_an_environment_without_a_verifier_needs_none() -> None:
    scene = Scene()
    for second in range(60):
        scene.unserved.update([EnvironmentSpec(name="sums", address="a:1")], [], second)
    assert scene.warnings == []
