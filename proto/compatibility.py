"""Refuse a proto change that breaks the wire.

``check`` compares proto/ with the accepted baseline (proto/baseline.binpb); ``accept`` checks, then makes the
present contract the baseline. Fields may be added; what exists keeps its number, type and meaning, and a
removed field leaves its number reserved.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

HERE = Path(__file__).parent
BASELINE = HERE / "baseline.binpb"


def compile_protos(root: Path = HERE) -> FileDescriptorSet:
    """All files under ``root`` as one descriptor set. Raises SystemExit when they do not compile."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "set.binpb"
        files = sorted(str(path) for path in root.rglob("*.proto"))
        if protoc.main(["protoc", f"-I{root}", f"--descriptor_set_out={out}", *files]) != 0:
            raise SystemExit("proto: does not compile")
        return FileDescriptorSet.FromString(out.read_bytes())


def breaking_changes(old: FileDescriptorSet, new: FileDescriptorSet) -> list[str]:
    """What a peer built from ``old`` would misread or miss in ``new``, one line each."""
    return [
        *_compare_messages(dict(_messages(old)), dict(_messages(new))),
        *_compare_enums(dict(_enums(old)), dict(_enums(new))),
        *_compare_services(dict(_services(old)), dict(_services(new))),
    ]


def _compare_messages(old: dict[str, DescriptorProto], new: dict[str, DescriptorProto]) -> Iterator[str]:
    for name, before in old.items():
        after = new.get(name)
        if after is None:
            yield f"message {name}: removed"
            continue
        fields = {field.number: field for field in after.field}
        for field in before.field:
            where = f"field {name}.{field.name} = {field.number}"
            if field.number not in fields:
                if not _reserved(after, field.number):
                    yield f"{where}: removed without reserving its number"
            else:
                yield from _compare_fields(where, field, fields[field.number])


def _compare_fields(where: str, old: FieldDescriptorProto, new: FieldDescriptorProto) -> Iterator[str]:
    if old.name != new.name:
        yield f"{where}: number now belongs to {new.name}"
    if (old.type, old.type_name) != (new.type, new.type_name):
        yield f"{where}: type changed"
    if old.label != new.label:
        yield f"{where}: repeated and single exchanged"
    if old.HasField("oneof_index") != new.HasField("oneof_index"):
        yield f"{where}: moved into or out of a oneof"


def _compare_enums(old: dict[str, EnumDescriptorProto], new: dict[str, EnumDescriptorProto]) -> Iterator[str]:
    for name, before in old.items():
        after = {value.number: value.name for value in new[name].value} if name in new else {}
        for value in before.value:
            if after.get(value.number) != value.name:
                yield f"enum {name}.{value.name} = {value.number}: removed or renamed"


def _compare_services(old: dict[str, ServiceDescriptorProto], new: dict[str, ServiceDescriptorProto]) -> Iterator[str]:
    for name, before in old.items():
        after = {method.name: method for method in new[name].method} if name in new else {}
        for method in before.method:
            if after.get(method.name) != method:
                yield f"rpc {name}.{method.name}: removed, or its messages or streaming changed"


def _reserved(message: DescriptorProto, number: int) -> bool:
    return any(span.start <= number < span.end for span in message.reserved_range)


def _messages(files: FileDescriptorSet) -> Iterator[tuple[str, DescriptorProto]]:
    for file in files.file:
        yield from _nested(file.package, file.message_type)


def _nested(prefix: str, messages: object) -> Iterator[tuple[str, DescriptorProto]]:
    for message in messages:  # type: ignore[attr-defined]
        yield f"{prefix}.{message.name}", message
        yield from _nested(f"{prefix}.{message.name}", message.nested_type)


def _enums(files: FileDescriptorSet) -> Iterator[tuple[str, EnumDescriptorProto]]:
    for file in files.file:
        for enum in file.enum_type:
            yield f"{file.package}.{enum.name}", enum
    for name, message in _messages(files):
        for enum in message.enum_type:
            yield f"{name}.{enum.name}", enum


def _services(files: FileDescriptorSet) -> Iterator[tuple[str, ServiceDescriptorProto]]:
    for file in files.file:
        for service in file.service:
            yield f"{file.package}.{service.name}", service


def main(arguments: list[str]) -> int:
    """``check`` or ``accept``."""
    if arguments not in (["check"], ["accept"]):
        print("usage: python proto/compatibility.py check|accept")
        return 2
    new = compile_protos()
    if BASELINE.exists():
        broken = breaking_changes(FileDescriptorSet.FromString(BASELINE.read_bytes()), new)
        if broken:
            print("proto: these changes break the wire:", *broken, sep="\n  ")
            return 1
    if arguments == ["accept"]:
        BASELINE.write_bytes(new.SerializeToString(deterministic=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
