"""The limit of file descriptors: each connection takes one, and the usual soft limit is 1,024."""

import resource

MAX_DESCRIPTORS = 65536
"""Any value of this size will do: it is more than all connections need. More is harmful, since some libraries close
every possible descriptor when they start a process."""


def raise_limit() -> int:
    """Raise this process's soft limit to its hard one, and return the limit that then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptor_limit()


def descriptor_limit() -> int:
    """The number of descriptors that this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
