"""Any message of a protobuf type: a hypothesis strategy made from its descriptor."""

import importlib
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

MAX_DEPTH = 4
F = FieldDescriptor
INTEGERS = {
    F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    F.CPPTYPE_UINT32: (0, 2**32 - 1),
    F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    F.CPPTYPE_UINT64: (0, 2**64 - 1),
}
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "\x00", "../../etc/passwd", "127.0.0.1:0", "a" * 5000, "\u202e", "arithmetic", "train", "exact"]
    ),
)


def messages(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Messages of this type, every field of them possibly set, each to anything that its type can hold."""
    kind = GetMessageClass(descriptor)
    fields = {
        field.name: _field(field, depth) for field in descriptor.fields if depth < MAX_DEPTH or not field.message_type
    }
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: _made(kind, values))


def _made(kind: type[Message], values: dict[str, Any]) -> Message:
    message = kind()
    for name, value in values.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        if field.message_type and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            for key, item in value.items():
                if entry.message_type:
                    getattr(message, name)[key].CopyFrom(item)
                else:
                    getattr(message, name)[key] = item
        elif field.is_repeated:
            getattr(message, name).extend(value)
        elif field.message_type:
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


def _field(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return st.dictionaries(_one(key, depth), _one(value, depth), max_size=3)
    return st.lists(_one(field, depth), max_size=3) if field.is_repeated else _one(field, depth)


def _one(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type:
        return messages(field.message_type, depth + 1)
    if field.cpp_type in INTEGERS:
        low, high = INTEGERS[field.cpp_type]
        return st.one_of(st.integers(low, high), st.sampled_from([low, 0, 1, high]))
    if field.cpp_type == F.CPPTYPE_ENUM:
        return st.integers(-(2**31), 2**31 - 1) | st.integers(0, 9)
    if field.cpp_type == F.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == F.CPPTYPE_FLOAT:
        return st.floats(width=32)
    if field.cpp_type == F.CPPTYPE_DOUBLE:
        return st.floats()
    return TEXTS if field.type == F.TYPE_STRING else st.binary(max_size=200) | TEXTS.map(_bytes)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def request_type(module: str, service: str, method: str) -> Descriptor:
    """The request of a method of ``rlserve.v1.<module>``."""
    found = importlib.import_module(f"rlserve.v1.{module}").DESCRIPTOR.services_by_name[service]
    return found.methods_by_name[method].input_type
