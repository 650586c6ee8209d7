"""The system calls that a box is refused, as a classic BPF program.

The filter allows by default and refuses whole families with EPERM: sockets, tracing, mounts, namespaces, BPF,
io_uring, keys, modules, shared memory outside the address-space limit, change of identity and of priority, execution
of programs.
A list of what is refused does not break with each libc; it stands behind namespaces, Landlock and dropped
capabilities, not instead of them.
"""

import platform
import struct
from collections.abc import Iterable

AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# (x86_64, aarch64); None where the architecture has no such call.
CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "bind": (49, 200),
    "listen": (50, 201),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "recvmsg": (47, 212),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "semget": (64, 190),
    "semop": (65, 193),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setgroups": (116, 159),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "capset": (126, 91),
    "personality": (135, 92),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mlock": (149, 228),
    "mlock2": (325, 284),
    "mlockall": (151, 230),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "ioperm": (173, None),
    "iopl": (172, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "lookup_dcookie": (212, 18),
    "fanotify_init": (300, 262),
    "execve": (59, 221),
    "execveat": (322, 281),
    # What would let a program wait for a processor of its own will: waits are not counted against its limit.
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    # Channels to other boxes over the files that all may read.
    "flock": (73, 32),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "cachestat": (451, 451),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
}

# What a box in which one process is all must not do either: no pid namespace would end its children.
PROCESS_CALLS: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "prlimit64": (302, 261),
}

CLONE = (56, 220)
CLONE3 = 435
IOCTL = (16, 29)
SOCKETPAIR, SENDTO = (53, 199), (44, 206)
AF_UNIX = 1
SCHED_YIELD = (24, 124)
CLONE_THREAD = 0x00010000
NAMESPACE_FLAGS = 0x7E020000 | 0x00000080
"""NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME."""
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
PRCTL = (157, 167)
PR_SET_PDEATHSIG = 1
X32_BIT = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT, _FIFTH_ARGUMENT = 0, 4, 16, 24, 48


def filter_bytes(*, single_process: bool, machine: str = "") -> bytes:
    """The filter for this machine, as the array of ``struct sock_filter`` that the kernel takes.

    ``single_process`` also refuses new processes (threads are allowed) and signals.
    Raises NotImplementedError for an architecture whose numbers are not known here.
    """
    machine = machine or platform.machine()
    if machine not in AUDIT_ARCHITECTURES:
        raise NotImplementedError(f"seccomp: the system calls of {machine!r} are not known (known: x86_64, aarch64)")
    column = list(AUDIT_ARCHITECTURES).index(machine)
    refused = dict(CALLS, **(PROCESS_CALLS if single_process else {}))
    numbers = [number for pair in refused.values() if (number := pair[column]) is not None]
    return b"".join(_program(AUDIT_ARCHITECTURES[machine], numbers, column, single_process))


def _program(architecture: int, numbers: Iterable[int], column: int, single_process: bool) -> list[bytes]:
    program = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL),  # another architecture's numbers mean other calls
        _step(_LOAD, _NUMBER),
    ]
    if column == 0:
        program += [_step(_AT_LEAST, X32_BIT, 0, 1), _step(_RETURN, _KILL)]
    for number in numbers:
        program += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _error(1))]
    # clone3 hides its flags in memory that a filter cannot read; with ENOSYS libc falls back to clone.
    program += [_step(_EQUAL, CLONE3, 0, 1), _step(_RETURN, _error(38))]
    program += [_step(_EQUAL, SCHED_YIELD[column], 0, 1), _step(_RETURN, _error(0))]  # done, and nothing yielded
    program += _socket_pairs(column)
    program += _clone(column, single_process)
    program += _terminal(column)
    if single_process:
        program += _parent_death(column)
    return [*program, _step(_RETURN, _ALLOW)]


def _socket_pairs(column: int) -> list[bytes]:
    """Pairs within the box, which event loops wake themselves with, and nothing sent to an address."""
    make = [
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_EQUAL, AF_UNIX, 1, 0),
        _step(_RETURN, _error(1)),
        _step(_RETURN, _ALLOW),
    ]
    send = [
        _step(_LOAD, _FIFTH_ARGUMENT),
        _step(_EQUAL, 0, 0, 2),
        _step(_LOAD, _FIFTH_ARGUMENT + 4),
        _step(_EQUAL, 0, 1, 0),
        _step(_RETURN, _error(1)),
        _step(_RETURN, _ALLOW),
    ]
    made = [_step(_EQUAL, SOCKETPAIR[column], 0, len(make)), *make]
    return [*made, _step(_EQUAL, SENDTO[column], 0, len(send)), *send]


def _clone(column: int, single_process: bool) -> list[bytes]:
    """No new namespace; and nothing but threads for a single process."""
    threads_only = [_step(_ANY_SET, CLONE_THREAD, 1, 0), _step(_RETURN, _error(1))] if single_process else []
    body = [
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_SET, NAMESPACE_FLAGS, 0, 1),
        _step(_RETURN, _error(1)),
        *threads_only,
        _step(_RETURN, _ALLOW),
    ]
    return [_step(_EQUAL, CLONE[column], 0, len(body)), *body]


def _terminal(column: int) -> list[bytes]:
    """No typing into a terminal that the box was handed by mistake."""
    body = [
        _step(_LOAD, _SECOND_ARGUMENT),
        _step(_EQUAL, TIOCSTI, 1, 0),
        _step(_EQUAL, TIOCLINUX, 0, 1),
        _step(_RETURN, _error(1)),
        _step(_RETURN, _ALLOW),
    ]
    return [_step(_EQUAL, IOCTL[column], 0, len(body)), *body]


def _parent_death(column: int) -> list[bytes]:
    """The end of its keeper stays the end of the box."""
    body = [
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_EQUAL, PR_SET_PDEATHSIG, 0, 1),
        _step(_RETURN, _error(1)),
        _step(_RETURN, _ALLOW),
    ]
    return [_step(_EQUAL, PRCTL[column], 0, len(body)), *body]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _error(number: int) -> int:
    return 0x00050000 | number
