"""The filter's program, run by a small interpreter of classic BPF."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlserve.sandbox.walls.seccomp import (
    AUDIT_ARCHITECTURES,
    CALLS,
    CLONE,
    CLONE3,
    IOCTL,
    PROCESS_CALLS,
    SCHED_YIELD,
    SENDTO,
    SOCKETPAIR,
    filter_bytes,
)

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
MACHINES = list(AUDIT_ARCHITECTURES)


def decide(program: bytes, number: int, *, architecture: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would answer."""
    data = struct.pack("<iIQ", number, architecture, 0) + struct.pack("<6Q", *(arguments + (0,) * 6)[:6])
    steps = [struct.unpack_from("<HBBI", program, offset) for offset in range(0, len(program), 8)]
    position, value = 0, 0
    while True:
        code, if_true, if_false, operand = steps[position]
        position += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, operand)
            continue
        holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
        position += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("single", [False, True])
def test_every_listed_call_is_refused_and_every_other_allowed(machine: str, single: bool) -> None:
    program = filter_bytes(single_process=single, machine=machine)
    column = MACHINES.index(machine)
    refused = {pair[column] for pair in (CALLS | (PROCESS_CALLS if single else {})).values()} - {None}
    special = {pair[column] for pair in (CLONE, SOCKETPAIR, SENDTO, SCHED_YIELD)} | {CLONE3}
    for number in range(460):
        if number in special:
            continue
        expected = EPERM if number in refused else ALLOW
        assert decide(program, number, architecture=AUDIT_ARCHITECTURES[machine]) == expected, number


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architectures_numbers_end_the_process(machine: str) -> None:
    program = filter_bytes(single_process=False, machine=machine)
    assert decide(program, 0, architecture=0x40000003) == KILL


def test_the_x32_numbers_end_the_process() -> None:
    program = filter_bytes(single_process=False, machine="x86_64")
    assert decide(program, 0x40000000 | 59, architecture=AUDIT_ARCHITECTURES["x86_64"]) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@settings(deadline=None)
@given(flags=st.integers(0, 2**32 - 1), single=st.booleans())
def test_clone_makes_no_namespace_and_a_single_process_only_threads(machine: str, flags: int, single: bool) -> None:
    program = filter_bytes(single_process=single, machine=machine)
    number = CLONE[MACHINES.index(machine)]
    answer = decide(program, number, architecture=AUDIT_ARCHITECTURES[machine], arguments=(flags,))
    new_namespace = flags & (0x7E020000 | 0x80)
    forbidden = new_namespace or (single and not flags & 0x00010000)
    assert answer == (EPERM if forbidden else ALLOW)


@pytest.mark.parametrize("machine", MACHINES)
def test_clone3_is_unknown_so_that_libc_falls_back(machine: str) -> None:
    program = filter_bytes(single_process=False, machine=machine)
    assert decide(program, CLONE3, architecture=AUDIT_ARCHITECTURES[machine]) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_types_into_a_terminal(machine: str) -> None:
    program = filter_bytes(single_process=False, machine=machine)
    number, architecture = IOCTL[MACHINES.index(machine)], AUDIT_ARCHITECTURES[machine]
    assert decide(program, number, architecture=architecture, arguments=(0, 0x5412)) == EPERM
    assert decide(program, number, architecture=architecture, arguments=(0, 0x5413)) == ALLOW


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="riscv64"):
        filter_bytes(single_process=False, machine="riscv64")


@pytest.mark.parametrize("machine", MACHINES)
def test_sockets_are_pairs_within_the_box_alone(machine: str) -> None:
    program, column = filter_bytes(single_process=False, machine=machine), MACHINES.index(machine)
    architecture = AUDIT_ARCHITECTURES[machine]
    for domain, answer in ((1, ALLOW), (2, EPERM), (10, EPERM), (0, EPERM)):
        assert decide(program, SOCKETPAIR[column], architecture=architecture, arguments=(domain,)) == answer
    for address, answer in ((0, ALLOW), (0x7FFF00001000, EPERM), (1 << 40, EPERM), (4096, EPERM)):
        arguments = (3, 4096, 8, 0, address, 0)
        assert decide(program, SENDTO[column], architecture=architecture, arguments=arguments) == answer


@pytest.mark.parametrize("machine", MACHINES)
def test_giving_way_to_others_does_nothing(machine: str) -> None:
    program = filter_bytes(single_process=False, machine=machine)
    assert (
        decide(program, SCHED_YIELD[MACHINES.index(machine)], architecture=AUDIT_ARCHITECTURES[machine]) == 0x00050000
    )
