"""The wire contract: what may change and what may not."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

PROTO = Path(__file__).parents[2] / "proto"

BASE = """
syntax = "proto3";
package t;
enum E { E_UNSPECIFIED = 0; E_A = 1; }
message M { uint32 a = 1; repeated string b = 2; oneof x { string c = 3; } message N { bool d = 1; } }
message Q { M m = 1; }
service S { rpc Call(Q) returns (stream M); }
"""


@pytest.fixture(scope="module")
def compatibility() -> ModuleType:
    spec = importlib.util.spec_from_file_location("proto_compatibility", PROTO / "compatibility.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiled(compatibility: ModuleType, root: Path, text: str) -> FileDescriptorSet:
    root.mkdir()
    (root / "t.proto").write_text(text)
    result = compatibility.compile_protos(root)
    assert isinstance(result, FileDescriptorSet)
    return result


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("uint32 a = 1;", "uint64 a = 1;", "type changed"),
        ("uint32 a = 1;", "uint32 z = 1;", "number now belongs to z"),
        ("uint32 a = 1;", "", "without reserving"),
        ("uint32 a = 1;", "repeated uint32 a = 1;", "repeated and single"),
        ("oneof x { string c = 3; }", "string c = 3;", "oneof"),
        ("bool d = 1;", "", "field t.M.N.d = 1"),
        ("E_A = 1;", "E_B = 1;", "enum t.E.E_A"),
        ("returns (stream M)", "returns (M)", "rpc t.S.Call"),
        ("rpc Call(Q) returns (stream M);", "", "rpc t.S.Call"),
    ],
)
def test_a_change_that_breaks_the_wire_is_named(
    compatibility: ModuleType, tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    assert old in BASE
    before = compiled(compatibility, tmp_path / "old", BASE)
    after = compiled(compatibility, tmp_path / "new", BASE.replace(old, new))
    assert any(complaint in line for line in compatibility.breaking_changes(before, after))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("uint32 a = 1;", "uint32 a = 1; uint32 later = 9;"),
        ("uint32 a = 1;", "reserved 1;"),
        ("E_A = 1;", "E_A = 1; E_B = 2;"),
    ],
)
def test_an_addition_is_accepted(compatibility: ModuleType, tmp_path: Path, old: str, new: str) -> None:
    before = compiled(compatibility, tmp_path / "old", BASE)
    after = compiled(compatibility, tmp_path / "new", BASE.replace(old, new))
    assert compatibility.breaking_changes(before, after) == []


def test_the_contract_is_compatible_with_the_accepted_baseline(compatibility: ModuleType) -> None:
    baseline = FileDescriptorSet.FromString((PROTO / "baseline.binpb").read_bytes())
    assert compatibility.breaking_changes(baseline, compatibility.compile_protos()) == []
