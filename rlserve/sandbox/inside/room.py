"""The room in which the boxes of one zygote stand: its namespaces and its file tree."""

import os

import kernel

SCRATCH = "/tmp"
DEVICES = ("null", "zero", "full", "random", "urandom")
STREAMS = ("stdin", "stdout", "stderr")
"""That they are there is all; ``program`` opens them."""


def enter(readable: list[str], places: dict[str, str]) -> None:
    """New namespaces, and a root that holds ``readable`` (read-only), a few devices and an empty scratch place.

    ``places``: what the root has elsewhere than it is outside, by where it is.
    Without root's powers a user namespace lends them first. Raises OSError where the kernel refuses.
    """
    if os.geteuid() != 0:
        _become_root_of_nothing()
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    # Taken before the new root covers the path below which some of them may lie.
    elsewhere = [(place, os.open(path, os.O_PATH)) for path, place in places.items()]
    sources = [(path, os.open(path, os.O_PATH | os.O_NOFOLLOW)) for path in readable if os.path.lexists(path)]
    devices = [(f"/dev/{name}", os.open(f"/dev/{name}", os.O_PATH)) for name in DEVICES]
    root = SCRATCH
    kernel.mount("rlserve", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,nr_inodes=512,mode=755")
    for path, source in sources:
        _place(root, path, source)
    for path, source in (*elsewhere, *devices):
        _bind(root, path, source)
    for name in STREAMS:
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o444))
    os.mkdir(root + SCRATCH)
    kernel.pivot_root(root)
    kernel.make_read_only_tree()


def furnish(file_bytes: int, files: int) -> None:
    """In a box's own mount namespace: an empty scratch directory of limited size."""
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("scratch", SCRATCH, "tmpfs", flags, f"size={file_bytes},nr_inodes={files},mode=1777")
    os.chdir(SCRATCH)


def _become_root_of_nothing() -> None:
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _place(root: str, path: str, source: int) -> None:
    if os.path.islink(path):
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        if not os.path.lexists(root + path):
            os.symlink(os.readlink(path), root + path)
        os.close(source)
    else:
        _bind(root, path, source)


def _bind(root: str, path: str, source: int) -> None:
    target = root + path
    if os.path.isdir(f"/proc/self/fd/{source}"):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    kernel.mount(f"/proc/self/fd/{source}", target, "", kernel.MS_BIND | kernel.MS_REC)
    os.close(source)
