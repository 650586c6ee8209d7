"""The namespaces and the file tree that the boxes of one zygote share."""

import os

import kernel

SCRATCH = "/tmp"
DEVICES = ("null", "zero", "full", "random", "urandom")
STREAMS = ("stdin", "stdout", "stderr")
"""Empty files: programs test that they exist, and ``program`` opens the descriptors in their place."""


def enter(readable: list[str], places: dict[str, str]) -> None:
    """Enter new namespaces with a root that holds ``readable`` (read-only), a few devices and an empty directory.

    ``places`` maps paths outside to other paths in the new root. Without root's powers this needs a user namespace.
    Raises OSError when the kernel refuses.
    """
    if os.geteuid() != 0:
        _become_root_of_nothing()
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    # Private, since systemd shares mounts: without this the mounts below would appear outside, in the machine's tree.
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    # Opened before the new root is mounted over SCRATCH, below which some of them may lie.
    elsewhere = [(place, os.open(path, os.O_PATH)) for path, place in places.items()]
    sources = [(path, os.open(path, os.O_PATH | os.O_NOFOLLOW)) for path in readable if os.path.lexists(path)]
    devices = [(f"/dev/{name}", os.open(f"/dev/{name}", os.O_PATH)) for name in DEVICES]
    root = SCRATCH  # any directory will do as the mount point, and this one exists everywhere
    # 1 MiB and 512 files are plenty: the tree consists of mount points, links and a few empty files.
    kernel.mount("rlserve", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,nr_inodes=512,mode=755")
    for path, source in sources:
        _place(root, path, source)
    for path, source in (*elsewhere, *devices):
        _bind(root, path, source)
    for name in STREAMS:
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o444))
    os.mkdir(root + SCRATCH)
    kernel.pivot_root(root)
    kernel.make_read_only_tree()  # last: until here the tree itself is written


def furnish(file_bytes: int, files: int) -> None:
    """Mount an empty scratch directory of limited size, in a box's own mount namespace."""
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("scratch", SCRATCH, "tmpfs", flags, f"size={file_bytes},nr_inodes={files},mode=1777")
    os.chdir(SCRATCH)


def _become_root_of_nothing() -> None:
    """Become root of a new user namespace, which allows mounts in it and nothing outside."""
    uid, gid = os.geteuid(), os.getegid()  # read before: inside, both are the overflow id until they are mapped
    kernel.unshare(kernel.CLONE_NEWUSER)
    # setgroups first: an unprivileged process may write gid_map only after it gave setgroups up (user_namespaces(7)).
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _place(root: str, path: str, source: int) -> None:
    """Copy a link, or bind anything else, to its place below the new root."""
    if os.path.islink(path):
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        if not os.path.lexists(root + path):
            os.symlink(os.readlink(path), root + path)
        os.close(source)
    else:
        _bind(root, path, source)


def _bind(root: str, path: str, source: int) -> None:
    """Bind an open file or directory to a path below the new root."""
    target = root + path
    if os.path.isdir(f"/proc/self/fd/{source}"):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    # By descriptor: the path itself may be covered by the new root already.
    kernel.mount(f"/proc/self/fd/{source}", target, "", kernel.MS_BIND | kernel.MS_REC)
    os.close(source)
