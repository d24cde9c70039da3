# SPDX-License-Identifier: Apache-2.0
"""CUDA memory into the cluster with real servers: the library on a stand-in for the driver, tensors on a real GPU."""

import subprocess
import sys

import pytest
import torch
from cluster import BUILD, environment
from jobs import SHARD_BYTES, Job, content

FAKE = BUILD / "fake_cuda"
fake = pytest.mark.skipif(not (FAKE / "libcuda.so.1").exists(),
                          reason="built without CUDA's headers: no stand-in for its driver")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: tensors on a GPU were not saved")

# Saves what lies in the memory of the stand-in's device: as a shard, or by way of a stage.
SAVER = """
import ctypes, hashlib, sys, time
from gemel import _native
address, job, way, nbytes = sys.argv[1:]
nbytes = int(nbytes)
driver = ctypes.CDLL("libcuda.so.1")
driver.fake_cuda_allocate.restype = ctypes.c_uint64
driver.fake_cuda_allocate.argtypes = [ctypes.c_int, ctypes.c_size_t]
driver.fake_cuda_fill.argtypes = [ctypes.c_uint64, ctypes.c_char_p, ctypes.c_size_t]
driver.fake_cuda_pinned_bytes.restype = driver.fake_cuda_copies.restype = ctypes.c_size_t
_native.cuda_check()
client = _native.Client(address)
epoch = tuple(client.acquire_epoch(job, bytes(range(16))))
data = hashlib.shake_128(f"{job} {epoch[0]}.{epoch[1]} 1 0".encode()).digest(nbytes)
device = driver.fake_cuda_allocate(0, nbytes)
driver.fake_cuda_fill(device, data, nbytes)

def fill(into):
    into.write(0, data[:777])
    into.write_cuda(777, device + 777, nbytes - 777, 0)
    into.seal()

def opened(**stage):
    return client.open_snapshot(job, epoch, "1", 1, 0, 1, nbytes, 64, bytes(16), 2, 2, 0, "wait", 30.0, **stage)

if way == "stage":
    stage = client.open_stage(nbytes, 64, 30.0)
    fill(stage)
    writer = opened(stage=stage.id)
    writer.seal()
else:
    writer = opened()
    fill(writer)
print(writer.wait(30.0)["redundancy"], *epoch, _native.cuda_unpinned_bytes(), driver.fake_cuda_copies(0),
      driver.fake_cuda_copies(1), driver.fake_cuda_pinned_bytes() > 0, end=" ")
writer = stage = None
client.close()
for _ in range(500):  # in the background
    if driver.fake_cuda_pinned_bytes():
        time.sleep(0.01)
print(driver.fake_cuda_pinned_bytes())
"""


def saved(address, job, way="shard", **more):
    return subprocess.run([sys.executable, "-c", SAVER, address, job, way, str(SHARD_BYTES)],
                          env=environment(LD_LIBRARY_PATH=str(FAKE), **more), capture_output=True, timeout=60, text=True)


def restored(sockets, job):
    with Job(job, sockets, 1) as again:
        return again.restore().shards


@fake
@pytest.mark.parametrize("way", ["shard", "stage"])
def test_device_memory_is_saved_into_registered_memory(shared, way):
    job = f"cuda-{way}"
    told = saved(shared.sockets[0], job, way)
    assert told.returncode == 0, told.stderr
    redundancy, generation, counter, unpinned, slow, fast, pinned, pinned_at_end = told.stdout.split()
    assert (redundancy, unpinned, slow, pinned, pinned_at_end) == ("FULL", "0", "0", "True", "0")
    assert int(fast) >= SHARD_BYTES >> 20
    assert restored(shared.sockets[1:], job) == [content(job, (int(generation), int(counter)), 1, 0)]


@fake
def test_memory_that_the_driver_refuses_is_written_and_told(shared):
    told = saved(shared.sockets[0], "cuda-unpinned", FAKE_CUDA_FAIL="cuMemHostRegister")
    assert told.returncode == 0, told.stderr
    redundancy, generation, counter, unpinned, slow, fast, pinned, _ = told.stdout.split()
    assert (redundancy, unpinned, fast, pinned) == ("FULL", str(SHARD_BYTES - 777), "0", "False")
    assert restored(shared.sockets, "cuda-unpinned") == [content("cuda-unpinned", (int(generation), int(counter)), 1, 0)]


@fake
def test_a_device_that_fails_is_named(shared):
    told = saved(shared.sockets[0], "cuda-fails", FAKE_CUDA_FAIL="copy")
    assert told.returncode != 0
    assert "FailedPrecondition: copying from CUDA device 0" in told.stderr


def test_without_a_driver_it_is_said():
    empty = {"LD_LIBRARY_PATH": ""}
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA driver here")
    told = subprocess.run([sys.executable, "-c", "from gemel import _native; _native.cuda_check()"],
                          env=environment(**empty), capture_output=True, timeout=60, text=True)
    assert told.returncode != 0
    assert "FailedPrecondition" in told.stderr and ("CUDA driver" in told.stderr or "without CUDA" in told.stderr)


@gpu
def test_tensors_of_a_gpu_are_saved_and_restored_bit_for_bit(shared):
    from gemel import _native
    from gemel.torch import Checkpointer

    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(1500, 700), torch.nn.Linear(700, 3)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 1500, device="cuda")).sum().backward()
    optimizer.step()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with Checkpointer("gpu", address=shared.sockets[0]) as checkpointer:
        checkpointer.save(1, model=model, optimizer=optimizer)
        with torch.no_grad():  # at once: on the same stream, after the copy
            for value in model.parameters():
                value.zero_()
        checkpointer.wait()
        assert checkpointer.restore(model=model, optimizer=optimizer) == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), name
    assert _native.cuda_unpinned_bytes() == 0
