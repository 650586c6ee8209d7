"""PolicyVersion on the wire."""

import math
import string

from rlserve.records import PolicyVersion, TensorSpec
from rlserve.rpc.codec.check import MAX_INT64, count, fault, finite, integer, join, text
from rlserve.v1 import policy_pb2 as pb

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MAX_DIMENSIONS = 8
"""Any value of this size will do: a weight has four dimensions at most. It bounds the product of a shape."""
MAX_DIGEST_CHARACTERS = 128  # SHA-512, the longest digest in use
_HEX = frozenset(string.hexdigits)


def policy_to_proto(policy: PolicyVersion) -> pb.PolicyVersion:
    """Encode a policy version."""
    return pb.PolicyVersion(
        version=policy.version,
        tensors=[
            pb.TensorSpec(name=t.name, shape=t.shape, dtype=t.dtype, digest=t.digest, num_bytes=t.num_bytes)
            for t in policy.tensors
        ],
        parent_version=policy.parent_version,
        digest=policy.digest,
        total_bytes=policy.total_bytes,
        published_unix_seconds=policy.published_unix_seconds,
        run_id=policy.run_id,
        is_final=policy.is_final,
    )


def policy_from_proto(message: pb.PolicyVersion, at: str = "") -> PolicyVersion:
    """Decode a policy version; names must be unique, sizes fit shapes and dtypes. Raises InvalidRequest."""
    policy = PolicyVersion(
        version=integer(message.version, at, "version"),
        tensors=_tensors(message, at),
        digest=digest(message.digest, at, "digest"),
        parent_version=message.parent_version if message.HasField("parent_version") else None,
        published_unix_seconds=finite(message.published_unix_seconds, at, "published_unix_seconds", low=0),
        run_id=message.run_id,
        is_final=message.is_final,
    )
    if policy.total_bytes != message.total_bytes:
        fault(at, "total_bytes", f"is {message.total_bytes}; the tensors have {policy.total_bytes} bytes")
    if policy.parent_version is not None and policy.parent_version >= policy.version:
        problem = f"is {policy.parent_version}; give a version before {policy.version}"
        fault(at, "parent_version", problem, "bad_version")
    return policy


def _tensors(message: pb.PolicyVersion, at: str) -> tuple[TensorSpec, ...]:
    specs = tuple(_tensor(t, join(at, f"tensors[{i}]")) for i, t in enumerate(message.tensors))
    if not specs:
        fault(at, "tensors", "is empty; give at least one tensor")
    names: set[str] = set()
    for i, spec in enumerate(specs):
        if spec.name in names:
            fault(at, f"tensors[{i}].name", f"is {spec.name!r}, as of an earlier tensor; give each its own name")
        names.add(spec.name)
    return specs


def _tensor(message: pb.TensorSpec, at: str) -> TensorSpec:
    if message.dtype not in DTYPE_BYTES:
        fault(at, "dtype", f"is {message.dtype!r}; give one of {', '.join(DTYPE_BYTES)}")
    count(message.shape, at, "shape", high=MAX_DIMENSIONS)
    size = math.prod(message.shape) * DTYPE_BYTES[message.dtype]  # Python integers: a wire of huge shapes cannot wrap
    if size > MAX_INT64 or message.num_bytes != size:
        fault(at, "num_bytes", f"is {message.num_bytes}; shape and dtype make it {size}", "wrong_length")
    return TensorSpec(
        name=text(message.name, at, "name"),
        shape=tuple(message.shape),
        dtype=message.dtype,
        digest=digest(message.digest, at, "digest"),
        num_bytes=size,
    )


def digest(value: str, at: str, field: str) -> str:
    """Check a digest in hexadecimal digits."""
    if not value or not _HEX.issuperset(value) or len(value) > MAX_DIGEST_CHARACTERS:
        fault(at, field, f"is {value[:40]!r}; give hexadecimal digits")
    return value
