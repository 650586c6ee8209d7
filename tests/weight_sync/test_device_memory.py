"""A version in memory that the learner and an engine share. Memory of the host stands in for that of a GPU.

The engine's side runs in a process of its own, as it does on a GPU: a handle crosses by plain bytes.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlserve.errors import WeightsMismatch
from rlserve.weight_sync.device_memory import DeviceMemory, Mappings, SharedMemory, device_name
from rlserve.weight_sync.mapped_file import reading
from rlserve.weight_sync.publisher import Publisher

CPU = torch.device("cpu")
READER = """
import sys
import torch
from rlserve.weight_sync.device_memory import DeviceMemory, Mappings
device, handle, size, count = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
content = Mappings(torch.device("cpu")).content(DeviceMemory(device, handle, size))
for _ in range(count):
    print(content.view(torch.float32).sum().item(), flush=True)
    sys.stdin.readline()
"""


def tensors(value: float) -> list[tuple[str, torch.Tensor]]:
    return [("a", torch.full((500,), value)), ("b", torch.full((3, 5), value))]


def test_another_process_sees_each_version_in_one_mapping() -> None:
    shared = SharedMemory(CPU, 4000)
    memory = shared.memory
    command = [sys.executable, "-c", READER, memory.device, memory.handle.hex(), str(memory.size), "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        assert float(reader.stdout.readline()) == 0
        shared.content.view(torch.float32).fill_(2.0)
        print("again", file=reader.stdin, flush=True)
        assert float(reader.stdout.readline()) == 2000
        print("end", file=reader.stdin, flush=True)
    path = Path(memory.handle.decode())
    assert path.exists()
    shared.close()
    assert not path.exists()


@pytest.mark.parametrize(
    "memory",
    [
        DeviceMemory("cuda:GPU-1", bytes(64), 4000),
        DeviceMemory(device_name(CPU), b"/dev/shm/absent", 4000),
        DeviceMemory(device_name(CPU), b"/etc/hostname", 4000),
        DeviceMemory(device_name(CPU), b"\0", 4000),
    ],
)
def test_memory_that_cannot_be_opened_here_is_refused(memory: DeviceMemory) -> None:
    with pytest.raises(WeightsMismatch, match=r"memory (is of device|cannot be opened)"):
        Mappings(CPU).content(memory)


def test_the_memory_holds_the_newest_version_once_an_engine_asked_for_it(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, run_id="r")
    publisher.publish(tensors(1.0), 1)
    assert publisher.memory_of(publisher.get(1), device_name(CPU)) is None, "no engine had asked"
    publisher.publish(tensors(2.0), 2)
    memory = publisher.memory_of(publisher.get(2), device_name(CPU))
    assert memory is not None
    assert publisher.memory_of(publisher.get(1), device_name(CPU)) is None
    assert publisher.memory_of(publisher.get(2), "cuda:GPU-1") is None
    publisher.publish(tensors(3.0), 3)
    assert publisher.memory_of(publisher.get(3), device_name(CPU)) is None, "an engine elsewhere asked last"
    publisher.publish(tensors(4.0), 4)
    assert publisher.memory_of(publisher.get(4), device_name(CPU)) == memory
    content = Mappings(CPU).content(memory)
    assert bytes(content.numpy()) == publisher.get(4).path.read_bytes()
    publisher.close()
    assert not list(tmp_path.iterdir()) and not Path(memory.handle.decode()).exists()


def test_what_an_engine_reads_is_not_written_over(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, run_id="r")
    for version in (1, 2):
        publisher.publish(tensors(float(version)), version)
        memory = publisher.memory_of(publisher.get(version), device_name(CPU))
    assert memory is not None
    content = Mappings(CPU).content(memory)
    with reading(publisher.get(2).path):
        publisher.publish(tensors(3.0), 3)
        assert publisher.memory_of(publisher.get(3), device_name(CPU)) is None, "its workers take the file"
        assert set(content.view(torch.float32).tolist()) == {2.0}
        assert publisher.memory_of(publisher.get(2), device_name(CPU)) == memory
    publisher.publish(tensors(4.0), 4)
    assert publisher.memory_of(publisher.get(4), device_name(CPU)) == memory
    assert set(content.view(torch.float32).tolist()) == {4.0}
    assert publisher.memory_of(publisher.get(3), device_name(CPU)) is None
    publisher.close()


def test_a_version_that_is_given_up_leaves_the_memory_to_the_next(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, run_id="r")
    for version in (1, 2):
        publisher.publish(tensors(float(version)), version)
        memory = publisher.memory_of(publisher.get(version), device_name(CPU))
    publisher.begin(3, size_bytes=2060, device=CPU).abandon()
    assert publisher.memory_of(publisher.get(2), device_name(CPU)) is None
    publisher.publish(tensors(3.0), 3)
    assert publisher.memory_of(publisher.get(3), device_name(CPU)) == memory
    with reading(publisher.get(2).path) as flat:
        assert flat.size == 2060
    publisher.close()
