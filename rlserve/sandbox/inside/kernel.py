"""The system calls that build the walls, by ctypes: namespaces, mounts, capabilities, seccomp, Landlock."""

import ctypes
import os
import platform
import resource
import signal
import struct

# PyDLL keeps the interpreter lock during a call, so that a child made by clone holds it. With CDLL the child would wait
# for a lock that may belong to a thread of its parent.
_libc = ctypes.PyDLL(None, use_errno=True)

# linux/sched.h
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET, CLONE_PIDFD = 0x20000000, 0x40000000, 0x00001000

# linux/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2  # linux/fs.h

# linux/fcntl.h, linux/mount.h, linux/prctl.h, and the kernel's syscall tables.
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_CLONE = {"x86_64": 56, "aarch64": 220}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442  # new calls have one number on all architectures
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LAST_CAPABILITY = 63  # the sets have 64 bits; today's kernels use 41
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_EOPNOTSUPP = 95  # asm-generic/errno.h


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    # syscall(2) is variadic: a plain int would fill half a register and leave garbage in the rest.
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *wide), what)


def unshare(flags: int) -> None:
    """Enter new namespaces."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def clone(flags: int) -> tuple[int, int]:
    """Fork into new namespaces: (pid, pidfd) in the parent, (0, -1) in the child."""
    # The raw call: os.fork cannot set flags, and a pidfd opened afterwards could belong to another process by then.
    # With a null stack the child goes on here, as after fork. The order of arguments is that of both architectures, on
    # which only the unused tls and child_tid differ.
    pidfd = ctypes.c_int(-1)
    arguments = [ctypes.c_long(0), ctypes.byref(pidfd), ctypes.c_long(0), ctypes.c_long(0)]
    number = ctypes.c_long(_CLONE[platform.machine()])
    pid = _check(_libc.syscall(number, ctypes.c_long(flags | CLONE_PIDFD | signal.SIGCHLD), *arguments), "clone")
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()  # what os.fork does: locks, thread state and signals of the child
        return 0, -1
    return pid, pidfd.value


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system: see mount(2)."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(result, f"mount {target}")


def make_read_only_tree() -> None:
    """Make every mount below the root read-only and without setuid; a box mounts its scratch directory over it."""
    # mount_setattr and not a remount: MS_REMOUNT changes one mount, and those below it stay writable.
    attributes = ctypes.create_string_buffer(struct.pack("=QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0))
    target = ctypes.c_char_p(b"/")
    _syscall("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, target, _AT_RECURSIVE, attributes, 32)


def pivot_root(new_root: str) -> None:
    """Make ``new_root`` the root and unmount the old one."""
    os.chdir(new_root)
    # "." twice stacks the old root on the new one, which needs no directory for it; see pivot_root(2).
    dot = ctypes.c_char_p(b".")
    _syscall("pivot_root", _PIVOT_ROOT[platform.machine()], dot, dot)
    _check(_libc.umount2(b".", ctypes.c_int(MNT_DETACH)), "umount")
    os.chdir("/")


def lift_soft_limits() -> None:
    """Raise the soft limits of CPU time and address space to the hard ones."""
    for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hard, hard))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends. Call it after the change of user, which resets it."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0), "prctl")


def forgo_privileges() -> None:
    """Forbid new privileges and empty the bounding set. Call it before the change of user, which drops CAP_SETPCAP."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0), "no_new_privs")
    for capability in range(_LAST_CAPABILITY + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # beyond the kernel's last capability, or not permitted, and then there is none to drop


def drop_capabilities() -> None:
    """Empty all capability sets; forbid tracing and core dumps. Call it after the change of user, which allows both."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    nothing = ctypes.create_string_buffer(24)  # two struct __user_cap_data_struct
    _syscall("capset", _CAPSET[platform.machine()], header, nothing)
    _check(_libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0), "dumpable")


def filter_system_calls(program: bytes) -> None:
    """Install a seccomp filter, which can never be removed; needs ``forgo_privileges`` before it."""
    code = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    _check(_libc.prctl(_PR_SET_SECCOMP, mode, ctypes.byref(head), 0, 0), "seccomp")


def landlock_version() -> int:
    """The version of the kernel's Landlock ABI; 0 without Landlock."""
    try:
        return _syscall("landlock", _LANDLOCK_CREATE, None, 0, 1)  # LANDLOCK_CREATE_RULESET_VERSION
    except OSError:
        return 0


# linux/landlock.h: access rights, and all rights that each ABI version can handle.
_READ_FILE, _READ_DIR, _EXECUTE, _WRITE_FILE, _TRUNCATE = 1 << 2, 1 << 3, 1 << 0, 1 << 1, 1 << 14
_HANDLED_BY_VERSION = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}


def confine_files(readable: list[str], writable: list[str]) -> None:
    """Confine this process by Landlock to these paths, without TCP, signals or abstract sockets beyond the box.

    An older ABI restricts files alone: the other walls have to hold the rest, and the proof tries them.
    """
    version = landlock_version()
    if version == 0:
        raise OSError(_EOPNOTSUPP, "landlock: this kernel does not support it")
    handled = _HANDLED_BY_VERSION[min(version, 5)]
    network = 3 if version >= 4 else 0  # bind and connect of TCP
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals
    attributes = struct.pack("=QQQ", handled, network, scoped)
    # The size names the fields that this ABI has; an older kernel refuses a larger struct with a field that is set.
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _syscall("landlock", _LANDLOCK_CREATE, ctypes.create_string_buffer(attributes), size, 0)
    for path in readable:
        _allow(rules, path, _READ_FILE | _READ_DIR)
    for path in writable:
        _allow(rules, path, handled & ~_EXECUTE)
    _syscall("landlock", _LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    # The kernel refuses a rule that gives a file the rights of a directory.
    if not os.path.isdir(path):
        rights &= _READ_FILE | _WRITE_FILE | _TRUNCATE
    rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, parent))
    _syscall("landlock", _LANDLOCK_ADD, rules, 1, rule, 0)
    os.close(parent)
