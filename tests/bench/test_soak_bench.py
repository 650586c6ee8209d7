"""The soak finds nothing in a short run; a long one is ``rlserve bench soak``."""

from rlserve.bench import soak


def test_a_short_soak_leaves_nothing_behind_and_judges_nothing_wrongly() -> None:
    found = soak.measure(programs=300)
    clean = ("honest_failed", "hostile_passed", "workers_lost", "processes_left", "files_left", "mounts_grown")
    assert {name: found[name] for name in clean} == dict.fromkeys(clean, 0)
    assert abs(int(str(found["descriptors_grown"]))) <= 2
