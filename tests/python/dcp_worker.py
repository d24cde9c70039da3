# SPDX-License-Identifier: Apache-2.0
"""One rank of torch.distributed.checkpoint jobs: dcp_worker.py CASE...; every case asserts what it is about.

With GEMEL_FILE_STORE the store is a directory (file_store.py), otherwise GEMEL_ADDRESS names servers.
"""

import copy
import os
import pickle
import resource
import sys
import traceback

import conftest  # noqa: F401
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed._shard import sharded_tensor
from torch.distributed._shard.sharding_spec import ChunkShardingSpec, EnumerableShardingSpec, ShardMetadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import gemel.torch as gt
from gemel import clients, errors

if "GEMEL_FILE_STORE" in os.environ:
    import file_store

    os.environ["GEMEL_ADDRESS"] = os.environ["GEMEL_FILE_STORE"]
    clients.connect = file_store.Client

COPIES = int(os.environ.get("GEMEL_TEST_COPIES", "2"))
BIG = 600_000  # elements of a tensor that replicas share when it is staged


def writer(job, name=None, **options):
    return gt.StorageWriter(job, name, **{"copies": COPIES, "timeout_s": 60, "persist_every": 0, **options})


def reader(job, name=None, **options):
    return gt.StorageReader(job, name, timeout_s=60, **options)


def full(value):
    return value.full_tensor() if isinstance(value, DTensor) else value


def same(left, right) -> bool:
    if isinstance(left, torch.Tensor):
        left, right = full(left), full(right)
        return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(v, right[k]) for k, v in left.items())
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def blank(value):
    """The same shape of things with other content."""
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    if isinstance(value, dict):
        return type(value)((k, blank(v)) for k, v in value.items())
    return [blank(v) for v in value] if isinstance(value, list) else "other"


def check(state, job, name, **options):
    loaded = blank(state)
    dcp.load(loaded, storage_reader=reader(job, name, **options))
    assert same(loaded, state), (job, name, loaded, state)


def raised(kind, call) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def mesh(*shape):
    return init_device_mesh("cpu", shape)


def seeded(*size, seed=7, dtype=torch.float32):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Net(nn.Module):
    """Rows that no world divides, a buffer, a 16-bit and a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.up, self.down = nn.Linear(7, 13), nn.Linear(13, 3, bias=False)
        self.one = nn.Parameter(torch.randn(1, 13))
        self.frozen = nn.Parameter(torch.randn(5, 2), requires_grad=False)
        self.register_buffer("table", torch.arange(9))

    def forward(self, x):
        return self.down(self.up(x) * self.one)


def net(kind: str):
    model = Net()
    world = dist.get_world_size()
    if kind == "fsdp":
        fully_shard(model.up)
        fully_shard(model)
    elif kind == "hsdp":
        fully_shard(model, mesh=init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copy", "shard")))
    elif kind == "tp":
        parallelize_module(model, init_device_mesh("cpu", (world,), mesh_dim_names=("tp",)),
                           {"up": ColwiseParallel(), "down": RowwiseParallel()})
    elif kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)


def state_of(model, optimizer) -> dict:
    model_state, optim_state = get_state_dict(model, optimizer)
    return {"model": model_state, "optim": optim_state, "step": 3}


def trained(kind: str) -> dict:
    model, optimizer = net(kind)
    for step in range(2):
        if kind == "tp":  # forward of a wholly tensor-parallel net is not the subject
            for p in model.parameters():
                p.grad = torch.ones_like(p) * (step + 1) if p.requires_grad else None
        else:
            model(seeded(8, 7, seed=step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return state_of(model, optimizer)


def flat(state: dict) -> dict:
    return {k: full(v) for k, v in state["model"].items()} | {
        f"{p}.{k}": full(v) for p, s in state["optim"]["state"].items() for k, v in s.items()}


# ---- cases

def save_fsdp():
    state = trained("fsdp")
    dcp.save(state, storage_writer=writer("layouts", "fsdp"))
    whole = flat(state)
    dcp.save({"whole": whole}, storage_writer=writer("layouts", "whole"))


def load_any(kind):
    model, optimizer = net(kind)
    state = state_of(model, optimizer)
    dcp.load(state, storage_reader=reader("layouts", "fsdp"))
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
    found = flat(state_of(model, optimizer))
    wanted = {"whole": {k: torch.zeros_like(v) for k, v in found.items()}}
    dcp.load(wanted, storage_reader=reader("layouts", "whole"))
    assert same(found, wanted["whole"]) and state["step"] == 3


def load_fsdp():
    load_any("fsdp")


def load_hsdp():
    load_any("hsdp")


def load_tp():
    load_any("tp")


def load_plain():
    load_any("plain")


def layouts_round_trip():
    for kind in ["fsdp", "tp", "ddp", "plain"] + (["hsdp"] if dist.get_world_size() == 4 else []):
        state = trained(kind)
        dcp.save(state, storage_writer=writer("kinds", kind))
        check(state, "kinds", kind)
        dcp.async_save(state, storage_writer=writer("kinds", f"{kind}-async")).result()
        check(state, "kinds", f"{kind}-async")


def reshard_matrix():
    """Every placement of a 2-D mesh to every other, rows and columns that nothing divides."""
    world = dist.get_world_size()
    meshes = {1: mesh(world), 2: mesh(2, world // 2)}
    tensor = seeded(11, 6)
    kinds = [(1, [p]) for p in (Replicate(), Shard(0), Shard(1))]
    kinds += [(2, [p, q]) for p in (Replicate(), Shard(0), Shard(1)) for q in (Replicate(), Shard(0), Shard(1))]
    for number, (dims, placements) in enumerate(kinds):
        dcp.save({"w": distribute_tensor(tensor, meshes[dims], placements)}, storage_writer=writer("matrix", number))
    for number in range(len(kinds)):
        for dims, placements in kinds:
            state = {"w": distribute_tensor(torch.zeros_like(tensor), meshes[dims], placements)}
            dcp.load(state, storage_reader=reader("matrix", number))
            assert same(state["w"], tensor), (kinds[number], placements)
        plain = {"w": torch.zeros_like(tensor)}
        dcp.load(plain, storage_reader=reader("matrix", number))
        assert same(plain["w"], tensor)


def sharded_tensors():
    """The older kind: several shards on a rank, of any size, to and from plain tensors and each other."""
    def spec(*shards):
        return EnumerableShardingSpec([ShardMetadata(list(o), list(s), placement=f"rank:{r}/cpu") for r, o, s in shards])

    specs = [ChunkShardingSpec(0, ["rank:0/cpu", "rank:1/cpu"]),
             ChunkShardingSpec(1, ["rank:0/cpu", "rank:1/cpu", "rank:1/cpu", "rank:0/cpu"]),
             spec((0, (0, 0), (2, 8)), (1, (2, 0), (1, 8)), (0, (3, 0), (3, 8)), (1, (6, 0), (4, 8))),
             spec((1, (0, 0), (9, 8)), (0, (9, 0), (1, 8)))]
    whole = seeded(10, 8)
    dist.broadcast(whole, 0)

    def shards_of(how):
        made = sharded_tensor.zeros(how, 10, 8)
        for piece in made.local_shards():
            rows, columns = piece.metadata.shard_offsets
            n, m = piece.metadata.shard_sizes
            piece.tensor.copy_(whole[rows:rows + n, columns:columns + m])
        return made

    for number, how in enumerate(specs):
        dcp.save({"s": shards_of(how), "r": whole}, storage_writer=writer("sharded", number))
        dcp.async_save({"s": shards_of(how), "r": whole}, storage_writer=writer("sharded", f"a{number}")).result()
        for name in (number, f"a{number}"):
            for other in specs:
                state = {"s": torch.zeros(10, 8), "r": sharded_tensor.zeros(other, 10, 8)}
                dcp.load(state, storage_reader=reader("sharded", name))
                wanted = shards_of(other)
                assert same(state["s"], whole), (how, other)
                assert all(torch.equal(a.tensor, b.tensor)
                           for a, b in zip(state["r"].local_shards(), wanted.local_shards())), (how, other)


def odd_state() -> dict:
    base = seeded(6, 4)
    return {
        "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3), "bool": torch.tensor([True, False]),
        "half": seeded(5, dtype=torch.bfloat16), "f8": seeded(4).to(torch.float8_e4m3fn), "int": torch.arange(7),
        "transposed": base.t(), "strided": seeded(8, 3)[::2], "expanded": torch.ones(1, 3).expand(4, 3),
        "conj": torch.tensor([1 + 2j, 3 - 4j]).conj(), "channels_last": seeded(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "nested": {"list": [1, {"t": torch.ones(2)}, "x"], "none": None, "tuple": (1, 2.5, "a"), "deep": {"a": {"b": True}}},
        "text": "é", "bytes": b"\0\1", "big": 1 << 70, "lr": 0.1, "dict": {}, "inf": float("inf")}


def odd_tensors_and_values():
    state = odd_state()
    dcp.save(state, storage_writer=writer("odd", 1))
    loaded = {**blank(state), "expanded": torch.zeros(4, 3), "transposed": torch.zeros(6, 4).t(),
              "strided": torch.zeros(12, 3)[::3], "conj": torch.zeros(2, dtype=torch.complex64).conj(), "dict": {}}
    dcp.load(loaded, storage_reader=reader("odd", 1))
    assert same(loaded, state), loaded
    dcp.async_save(state, storage_writer=writer("odd", 2)).result()
    dcp.load(loaded, storage_reader=reader("odd", 2))
    assert same(loaded, state), loaded
    cast = {"int": torch.zeros(7, dtype=torch.float64)}
    dcp.load(cast, storage_reader=reader("odd", 1))  # as torch does: the target's type
    assert cast["int"].tolist() == [0, 1, 2, 3, 4, 5, 6]


def ids_and_stateful():
    class Part:
        def __init__(self, value):
            self.value, self.loaded = value, 0

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value, self.loaded = state["value"], self.loaded + 1

    path = os.environ.get("TEST_FOLDER", "/tmp/none") + "/run/step-7"
    one = writer("unused")
    dcp.save({"p": Part(torch.ones(3)), "n": 4}, checkpoint_id=path, storage_writer=one)
    part = Part(torch.zeros(3))
    state = {"p": part, "n": 0}
    dcp.load(state, checkpoint_id=path, storage_reader=reader("unused"))
    assert part.loaded == 1 and part.value.tolist() == [1, 1, 1] and state["n"] == 4 and state["p"] is part
    dcp.save({"n": 5}, checkpoint_id="gemel://urls/7", storage_writer=one)
    dcp.save({"n": 6}, checkpoint_id="8", storage_writer=one)  # a name within the job
    for name, n in ((7, 5), (8, 6), (None, 6)):
        state = {"n": 0}
        dcp.load(state, storage_reader=reader("urls", name))
        assert state["n"] == n
    order = ["a", "b"] if dist.get_rank() == 0 else ["b", "a"]
    parts = {k: Part(torch.full((2,), float(ord(k)))) for k in order}
    dcp.save(parts, storage_writer=writer("order", 1))
    fresh = {k: Part(torch.zeros(2)) for k in order}
    dcp.load(fresh, storage_reader=reader("order", 1))
    assert all(fresh[k].value.tolist() == [ord(k)] * 2 for k in order)


def partial_and_missing():
    state = {"model": {"w": seeded(9, 4), "b": seeded(9)}, "optim": {"step": torch.tensor(3.0), "lr": 0.5}}
    dcp.save(state, storage_writer=writer("partial", 1))
    half = {"model": blank(state["model"])}
    dcp.load(half, storage_reader=reader("partial", 1))
    assert same(half["model"], state["model"])
    only = _load_state_dict_from_keys("optim", storage_reader=reader("partial", 1))
    assert same(only, {"optim": state["optim"]})
    more = {"model": {**blank(state["model"]), "extra": torch.ones(2)}}
    dcp.load(more, storage_reader=reader("partial", 1), planner=dcp.DefaultLoadPlanner(allow_partial_load=True))
    assert more["model"]["extra"].tolist() == [1, 1] and same(more["model"]["w"], state["model"]["w"])
    assert "extra" in raised(CheckpointException, lambda: dcp.load(more, storage_reader=reader("partial", 1)))
    wrong = {"model": {"w": torch.zeros(4, 9)}}
    assert "Size mismatch" in raised(CheckpointException, lambda: dcp.load(wrong, storage_reader=reader("partial", 1)))
    assert "has no snapshot" in raised(CheckpointException, lambda: dcp.load(half, storage_reader=reader("partial", 99)))


def overwriting():
    one, two = {"x": seeded(5)}, {"x": seeded(5, seed=8)}
    dcp.save(one, storage_writer=writer("over", 1, overwrite=False))
    dcp.save(two, storage_writer=writer("over", 1))
    check(two, "over", 1)
    told = raised(CheckpointException, lambda: dcp.save(one, storage_writer=writer("over", 1, overwrite=False)))
    assert "Checkpoint already exists and self.overwrite=False." in told and "over@1" in told
    check(two, "over", 1)


class Odd:
    """What Gemel's format does not hold."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Odd and other.value == self.value


def refused_values():
    state = {"fine": 1, "o": {"odd": Odd(3)}, "t": torch.ones(2)}
    told = raised(CheckpointException, lambda: dcp.save(state, storage_writer=writer("pickled", 1)))
    assert "o.odd" in told and "allow_pickle=True" in told and "Odd" in told, told
    told = raised(errors.InvalidArgument, lambda: dcp.async_save(state, storage_writer=writer("pickled", 1)))
    assert "o.odd" in told
    dcp.save(state, storage_writer=writer("pickled", 1, allow_pickle=True))
    told = raised(CheckpointException, lambda: dcp.load(blank(state), storage_reader=reader("pickled", 1)))
    assert "o.odd" in told and "runs code" in told, told
    check(state, "pickled", 1, allow_pickle=True)
    some = {"fine": 0, "t": torch.zeros(2)}  # what is no pickle loads without
    dcp.load(some, storage_reader=reader("pickled", 1))
    assert some["fine"] == 1
    told = raised(CheckpointException, lambda: dcp.save(
        {"sparse": torch.eye(3).to_sparse()}, storage_writer=writer("pickled", 2)))
    assert "sparse" in told and "dense" in told


def failing_rank():
    """Every rank learns which one failed and why; nothing is visible; the next save works."""
    job = f"failing{dist.get_world_size()}"
    last = dist.get_world_size() - 1

    class Failing(dcp.DefaultSavePlanner):
        def resolve_data(self, item):
            if dist.get_rank() == last and item.index.fqn == f"r{last}":
                raise ValueError("no such weight today")
            return super().resolve_data(item)

    state = {"w": seeded(300_000), f"r{dist.get_rank()}": seeded(200_000)}
    try:
        dcp.save(state, storage_writer=writer(job, 1), planner=Failing())
        raise AssertionError("it did not fail")
    except CheckpointException as error:
        assert list(error.failures) == [last], error
        assert "no such weight today" in str(error)
    assert "has no snapshot" in raised(CheckpointException, lambda: dcp.load(blank(state), storage_reader=reader(job, 1)))
    dcp.save(state, storage_writer=writer(job, 1))
    check(state, job, 1)


def plan_caching():
    planner = dcp.DefaultSavePlanner(enable_plan_caching=True)
    for step in range(4):
        state = {"w": seeded(40, seed=step), "step": step}
        dcp.save(state, storage_writer=writer("cached", step), planner=planner)
    for step in range(4):
        check({"w": seeded(40, seed=step), "step": step}, "cached", step)
    for step in range(3):  # the same, staged: large, so that the ranks share it
        state = {"w": seeded(BIG, seed=step), "v": seeded(BIG, seed=step + 9), "step": step}
        dcp.async_save(state, storage_writer=writer("cached", f"a{step}"),
                       planner=dcp.DefaultSavePlanner(enable_plan_caching=True)).result()
        check(state, "cached", f"a{step}")
        dcp.save(state, storage_writer=writer("cached", f"b{step}"), planner=planner)
        check(state, "cached", f"b{step}")


def without_collectives():
    own = {"mine": torch.full((3,), float(dist.get_rank())), "n": dist.get_rank()}
    dcp.save(own, storage_writer=writer("solo", 1), use_collectives=False)
    check(own, "solo", 1)
    stager = gt.Stager(alone=True)
    dcp.async_save(own, storage_writer=writer("solo", 2), use_collectives=False, async_stager=stager).result()
    check(own, "solo", 2)
    told = raised(BaseException, lambda: dcp.async_save(
        own, storage_writer=writer("solo", 3), use_collectives=False, async_stager=gt.Stager()).result())
    assert dist.get_world_size() == 1 or "Stager(alone=True)" in told, told
    dcp.save({"r": dist.get_rank()}, storage_writer=writer(f"nodist{dist.get_rank()}", 1), no_dist=True)
    state = {"r": -1}
    dcp.load(state, storage_reader=reader(f"nodist{dist.get_rank()}", 1), no_dist=True)
    assert state["r"] == dist.get_rank()


def staged_state() -> dict:
    world = dist.get_world_size()
    state = {"model": {"a": seeded(BIG), "b": seeded(BIG, seed=2), "c": seeded(BIG, seed=3), "small": seeded(3)},
             "sharded": distribute_tensor(seeded(13, 5), mesh(world), [Shard(0)]),
             "copied": distribute_tensor(seeded(2 * BIG // 5, 5), mesh(world), [Replicate()]),
             "step": 5, "nested": {"lr": [0.1, 0.2], "t": (torch.ones(2), 1)}}
    state[f"rng{dist.get_rank()}"] = torch.arange(4)  # only this rank has it
    return state


def staging():
    state = staged_state()
    wanted = copy.deepcopy(state)
    stager = gt.Stager()
    staged = stager.stage(state)
    assert "StorageWriter" in raised(errors.FailedPrecondition, lambda: staged["model"]["a"] + 1)
    assert len(pickle.dumps(staged["model"]["a"])) < 2000
    del staged
    future = dcp.async_save(state, storage_writer=writer("staged", 1), async_stager=stager)
    for tensor in state["model"].values():
        tensor.zero_()
    state["nested"]["lr"][0] = 9
    future.result()
    check(wanted, "staged", 1)
    if dist.get_world_size() > 1:
        own = {f"only{dist.get_rank()}": seeded(BIG)}
        told = raised(BaseException, lambda: dcp.async_save(
            own, storage_writer=writer("staged-own", 1), async_stager=stager).result())
        assert "share_replicas=False" in told, told
        dcp.async_save(own, storage_writer=writer("staged-own", 2),
                       async_stager=gt.Stager(share_replicas=False)).result()
        check(own, "staged-own", 2)
    group = dist.new_group([0])
    if dist.get_rank() == 0:
        alone = {"a": wanted["model"]["a"], "n": 1}
        for maker in (lambda: gt.Stager(group), lambda: gt.Stager()):
            try:
                dcp.async_save(alone, storage_writer=writer("staged-group", 1), async_stager=maker(),
                               process_group=group).result()
                loaded = blank(alone)
                dcp.load(loaded, storage_reader=reader("staged-group", 1), process_group=group)
                assert same(loaded, alone)
            except BaseException as error:
                assert "process_group" in str(error) and dist.get_world_size() > 1, error
    dist.barrier()
    for _ in range(5):  # more than may be staged at once
        stager.stage(wanted)
    dcp.async_save(wanted, storage_writer=writer("staged", 2), async_stager=stager).result()
    stager.close()
    check(wanted, "staged", 2)


def async_staging():
    state = staged_state()
    for step, kind in enumerate(dcp.state_dict_saver.AsyncCheckpointerType):
        wanted = copy.deepcopy(state)
        stager = gt.Stager(use_async_staging=True)
        saving = dcp.async_save(state, storage_writer=writer("beside", step), async_stager=stager,
                                async_checkpointer_type=kind)
        state["nested"]["lr"][0] += 1  # what is no tensor is copied at once
        saving.staging_completion.result()
        for tensor in state["model"].values():
            tensor.add_(1)
        saving.upload_completion.result()
        stager.close()
        check(wanted, "beside", step)
    again = pickle.loads(pickle.dumps(stager))
    assert same(again.stage({"n": 3}).result(), {"n": 3})
    again.close()
    stager = gt.Stager(use_async_staging=True, timeout_s=0.05)
    held = [stager.stage({"w": torch.ones(3)}).result() for _ in range(2)]
    saving = stager.stage({"w": torch.ones(3)})
    assert "wait for the futures" in raised(errors.DeadlineExceeded, saving.result)
    del held
    stager.close()


def one_copy():
    # tests/e2e/dcp_test.py runs this at a server that has no room for a second copy of the state.
    nbytes = 96 << 20
    dcp.async_save({"a": torch.ones(1)}, storage_writer=writer("copy", "first", copies=1),
                   async_stager=gt.Stager()).result()
    state = {"w": seeded(nbytes // 4)}
    with open("/proc/self/status") as status:
        private_kib = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
    limit = (private_kib << 10) + nbytes // 2  # nor is there any in this process
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    told = raised(RuntimeError, lambda: dcp.async_save(
        state, storage_writer=writer("copy", "torch", copies=1),
        async_stager=dcp.staging.DefaultStager(dcp.staging.StagingOptions(False, False, False, False))))
    assert "can't allocate" in told, told
    dcp.async_save(state, storage_writer=writer("copy", "gemel", copies=1), async_stager=gt.Stager()).result()
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    check(state, "copy", "gemel")


def async_process():
    state = staged_state()
    kind = dcp.state_dict_saver.AsyncCheckpointerType.PROCESS
    for step in range(2):
        stager = gt.Stager() if step else None
        future = dcp.async_save(state, storage_writer=writer("process", step), async_checkpointer_type=kind,
                                async_stager=stager)
        future.result()
        check(state, "process", step)
    dcp.save(state, storage_writer=writer("process", 9))  # parent and child share one epoch
    dcp.async_save(state, storage_writer=writer("process", 10), async_checkpointer_type=kind).result()
    check(state, "process", 10)


def pickled_writer():
    made = pickle.loads(pickle.dumps(writer("pickling", 3)))
    state = {"w": seeded(10)}
    dcp.save(state, storage_writer=made)
    loaded = blank(state)
    dcp.load(loaded, storage_reader=pickle.loads(pickle.dumps(reader("pickling", 3))))
    assert same(loaded, state) and len(pickle.dumps(made)) < 2000


def of_checkpointer():
    """A snapshot of Checkpointer through dcp.load."""
    model, optimizer = net("fsdp")
    for step in range(2):
        model(seeded(8, 7, seed=step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with gt.Checkpointer("spine", copies=COPIES) as ckpt:
        ckpt.save(4, model=model, optimizer=optimizer)
        ckpt.wait()
    wanted = get_state_dict(model, optimizer)[0]
    fresh, other = net("fsdp")
    state = {"model": {k: torch.zeros_like(v) for k, v in get_state_dict(fresh, other)[0].items()}, "step": 0}
    dcp.load(state, storage_reader=reader("spine", 4))
    assert same(state["model"], wanted) and state["step"] == 4


def main(cases: list[str]) -> None:
    dist.init_process_group("gloo")
    for case in cases:
        try:
            globals()[case]()
        except BaseException:
            print(f"case {case} on rank {dist.get_rank()}", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        dist.barrier()
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
