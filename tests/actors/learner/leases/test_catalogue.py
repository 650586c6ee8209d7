"""The mixture as environments come and go: on an injected clock."""

from hypothesis import given
from hypothesis import strategies as st

from rlserve.actors.learner.leases.catalogue import GRACE_SECONDS, Catalogue, training_split
from rlserve.actors.learner.leases.mixture import MixtureEntry
from rlserve.records import EnvironmentSpec

HOME = MixtureEntry("home", "train", 2.0)


def spec(
    name: str, *, weight: float = 1.0, splits: tuple[str, ...] = ("train", "test"), held_out: tuple[str, ...] = ()
) -> EnvironmentSpec:
    return EnvironmentSpec(name=name, address="h:1", splits=dict.fromkeys(splits, 0), weight=weight, held_out=held_out)


def names(catalogue: Catalogue) -> list[str]:
    return [entry.environment for entry in catalogue.present]


def test_a_visitor_joins_and_leaves_at_once() -> None:
    catalogue = Catalogue([HOME])
    change = catalogue.update([spec("home"), spec("guest", weight=0.5)], now=0.0)
    assert (change.joined, change.left) == (("guest",), ())
    assert change.mixture == (HOME, MixtureEntry("guest", "train", 0.5))
    change = catalogue.update([spec("home")], now=0.1)
    assert (change.joined, change.left, names(catalogue)) == ((), ("guest",), ["home"])


def test_the_configuration_decides_for_its_own() -> None:
    catalogue = Catalogue([HOME])
    catalogue.update([spec("home", weight=9.0, splits=("other",))], now=0.0)
    assert catalogue.present == (HOME,)


def test_weight_zero_registers_without_being_drawn_from() -> None:
    catalogue = Catalogue([HOME])
    assert catalogue.update([spec("home"), spec("guest", weight=0.0)], now=0.0).joined == ()


def test_a_restart_of_a_configured_server_goes_unnoticed_and_its_death_does_not() -> None:
    catalogue = Catalogue([HOME])
    catalogue.update([spec("home"), spec("guest")], now=0.0)
    assert catalogue.update([spec("guest")], now=1.0).left == ()
    assert catalogue.update([spec("guest"), spec("home")], now=GRACE_SECONDS).left == ()
    assert catalogue.update([spec("guest")], now=10.0).left == ()
    assert catalogue.update([spec("guest")], now=10.0 + GRACE_SECONDS).left == ("home",)
    assert catalogue.update([spec("guest"), spec("home")], now=30.0).joined == ("home",)


def test_there_is_always_something_to_draw_from() -> None:
    catalogue = Catalogue([HOME])
    catalogue.update([spec("home")], now=0.0)
    for now in range(1, 100, 3):
        assert catalogue.update([], now=float(now)).mixture == (HOME,)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.floats(0, 9)), st.dictionaries(st.sampled_from("abcd"), st.floats(0, 9))
)
def test_what_joined_and_left_accounts_for_the_change(first: dict[str, float], second: dict[str, float]) -> None:
    catalogue = Catalogue([HOME])
    catalogue.update([spec(name, weight=weight) for name, weight in first.items()], now=0.0)
    before = set(names(catalogue))
    change = catalogue.update([spec(name, weight=weight) for name, weight in second.items()], now=1.0)
    assert (before | set(change.joined)) - set(change.left) == set(names(catalogue))


def test_training_never_draws_from_a_held_out_split() -> None:
    assert training_split(spec("x", splits=("test", "train"))) == "train"
    assert training_split(spec("x", splits=("test", "level2", "level1"))) == "level1"
    assert training_split(spec("x", splits=("level1", "level2"), held_out=("level1",))) == "level2"
    assert training_split(spec("x", splits=("test", "validation"))) is None
    assert training_split(spec("x", splits=("train",), held_out=("train",))) is None
