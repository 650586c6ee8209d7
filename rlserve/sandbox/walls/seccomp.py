"""The seccomp filter of a box: a classic BPF program that refuses system calls.

The filter allows by default and refuses whole families with EPERM: sockets, tracing, mounts, namespaces, BPF,
io_uring, keys, modules, shared memory outside the address-space limit, change of identity and of priority, execution
of programs. A list of refused calls, unlike a list of allowed ones, does not break with each new libc; it is a second
line behind namespaces, Landlock and dropped capabilities and does not replace them.
"""

import platform
import struct
from collections.abc import Iterable

# linux/audit.h, AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64.
AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Numbers on (x86_64, aarch64), from the kernel's syscall tables; None where the architecture lacks the call.
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
    # With these a program could wait for a processor at will, and such waits do not count against its limit.
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    # With these two boxes could signal each other through the files that all may read.
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

# Refused where a box is a single process (tier landlock): no pid namespace would end its children.
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

# Calls whose arguments decide. Numbers as above; flags and requests from the kernel's headers of the same names.
CLONE = (56, 220)
CLONE3 = 435  # new calls have one number on all architectures
IOCTL = (16, 29)
SOCKETPAIR, SENDTO = (53, 199), (44, 206)
AF_UNIX = 1  # linux/socket.h
SCHED_YIELD = (24, 124)
CLONE_THREAD = 0x00010000  # linux/sched.h
NAMESPACE_FLAGS = 0x7E020000 | 0x00000080
"""NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME."""
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
PRCTL = (157, 167)
PR_SET_PDEATHSIG = 1  # linux/prctl.h
X32_BIT = 0x40000000
"""Calls of the x32 ABI report the architecture x86-64 and set this bit in the call's number."""

# linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, then BPF_JMP with JEQ, JGE and JSET on a constant, then BPF_RET.
_LOAD, _EQUAL, _AT_LEAST, _ANY_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# linux/seccomp.h: SECCOMP_RET_ALLOW and SECCOMP_RET_KILL_PROCESS.
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
# Offsets in struct seccomp_data; an argument has 8 bytes, and its lower half is first on both architectures.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT, _FIFTH_ARGUMENT = 0, 4, 16, 24, 48
_EPERM, _ENOSYS = 1, 38  # asm-generic/errno.h


def filter_bytes(*, single_process: bool, machine: str = "") -> bytes:
    """The filter for this machine: an array of the kernel's ``struct sock_filter``.

    ``single_process`` also refuses new processes (threads are allowed) and signals.
    Raises NotImplementedError for an architecture without a column in CALLS.
    """
    machine = machine or platform.machine()
    if machine not in AUDIT_ARCHITECTURES:
        raise NotImplementedError(f"seccomp: no system call table for {machine!r} (known: x86_64, aarch64)")
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
        # A return after each comparison: a jump reaches 255 steps at most, so one shared return would be too far.
        program += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _error(_EPERM))]
    # clone3 hides its flags in memory that a filter cannot read; with ENOSYS libc falls back to clone.
    program += [_step(_EQUAL, CLONE3, 0, 1), _step(_RETURN, _error(_ENOSYS))]
    # Reports success and yields nothing: a program that yields in a loop would stand in the run queue, uncounted.
    program += [_step(_EQUAL, SCHED_YIELD[column], 0, 1), _step(_RETURN, _error(0))]
    program += _socket_pairs(column)
    program += _clone(column, single_process)
    program += _terminal(column)
    if single_process:
        program += _parent_death(column)
    return [*program, _step(_RETURN, _ALLOW)]


def _socket_pairs(column: int) -> list[bytes]:
    """Allow socket pairs within the box, with which event loops wake themselves; refuse sending to an address."""
    make = [
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_EQUAL, AF_UNIX, 1, 0),
        _step(_RETURN, _error(_EPERM)),
        _step(_RETURN, _ALLOW),
    ]
    # send(2) is sendto with a null address: both halves of the pointer must be zero, and a step loads 32 bits.
    send = [
        _step(_LOAD, _FIFTH_ARGUMENT),
        _step(_EQUAL, 0, 0, 2),
        _step(_LOAD, _FIFTH_ARGUMENT + 4),
        _step(_EQUAL, 0, 1, 0),
        _step(_RETURN, _error(_EPERM)),
        _step(_RETURN, _ALLOW),
    ]
    made = [_step(_EQUAL, SOCKETPAIR[column], 0, len(make)), *make]
    return [*made, _step(_EQUAL, SENDTO[column], 0, len(send)), *send]


def _clone(column: int, single_process: bool) -> list[bytes]:
    """Refuse new namespaces; with ``single_process`` also anything but a thread."""
    threads_only = [_step(_ANY_SET, CLONE_THREAD, 1, 0), _step(_RETURN, _error(_EPERM))] if single_process else []
    body = [
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_SET, NAMESPACE_FLAGS, 0, 1),
        _step(_RETURN, _error(_EPERM)),
        *threads_only,
        _step(_RETURN, _ALLOW),
    ]
    return [_step(_EQUAL, CLONE[column], 0, len(body)), *body]


def _terminal(column: int) -> list[bytes]:
    """Refuse typing into a terminal, in case the box inherited one by mistake."""
    body = [
        _step(_LOAD, _SECOND_ARGUMENT),
        _step(_EQUAL, TIOCSTI, 1, 0),
        _step(_EQUAL, TIOCLINUX, 0, 1),
        _step(_RETURN, _error(_EPERM)),
        _step(_RETURN, _ALLOW),
    ]
    return [_step(_EQUAL, IOCTL[column], 0, len(body)), *body]


def _parent_death(column: int) -> list[bytes]:
    """Keep the program from clearing the signal that kills it when its reaper ends."""
    body = [
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_EQUAL, PR_SET_PDEATHSIG, 0, 1),
        _step(_RETURN, _error(_EPERM)),
        _step(_RETURN, _ALLOW),
    ]
    return [_step(_EQUAL, PRCTL[column], 0, len(body)), *body]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One ``struct sock_filter``; a jump skips so many steps."""
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _error(number: int) -> int:
    """SECCOMP_RET_ERRNO: the call fails with this error number."""
    return 0x00050000 | number
