# SPDX-License-Identifier: Apache-2.0
"""The state of a training job as pieces of global tensors, and back.

``collect`` asks torch's ``get_state_dict`` family, so FSDP2 (``fully_shard``),
DDP, tensor parallel and plain modules all give the same fully qualified names.
A DTensor gives the box that this rank holds; any other tensor is taken to be
the same on all ranks. Of equal pieces one rank writes each, chosen by a rule
that every rank computes alike without talking.

Thread safety: none; called by the training thread between two steps.
Ownership: a ``Piece`` aliases the live tensor of the model or optimizer.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from gemel.errors import InvalidArgument
from gemel.torch.layout import CODE_OF_DTYPE, ITEM_BYTES, NDIM_MAX
from gemel.torch.reshard import Want

MODEL = "model/"
OPTIM = "optim/"
_OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True)


@dataclass
class Piece:
    """The part of one global tensor on this rank. ``written`` here, or by a peer that has it too."""

    want: Want
    local: torch.Tensor
    written: bool = True

    @property
    def nbytes(self) -> int:
        return math.prod(self.want.sizes) * ITEM_BYTES[self.want.dtype]


@dataclass
class State:
    """What ``collect`` found: tensors as pieces, everything else as values."""

    pieces: list[Piece] = field(default_factory=list)
    model_values: dict = field(default_factory=dict)
    optim_values: dict = field(default_factory=dict)
    started: list[bool] = field(default_factory=list)  # per optimizer: has it any state
    model_tensors: dict = field(default_factory=dict)
    optim_tensors: dict = field(default_factory=dict)


def collect(model, optimizer, place: tuple[int, int], started: list[bool] | None = None) -> State:
    """The live state of ``model`` and ``optimizer`` (each may be None) on this rank.

    ``place`` is (rank, world size). ``started`` names the optimizers whose state is created
    when it is missing; without it nothing is created.
    """
    state = State()
    if model is None and optimizer is not None:
        raise InvalidArgument("an optimizer needs its model: its state is keyed by the model's names")
    if model is None:
        return state
    if optimizer is None:
        model_dict, optim_dict = get_model_state_dict(model), {}
    else:
        optimizers = _optimizers(optimizer)
        state.started = [_has_state(o) for o in optimizers] if started is None else started
        with _stateless(optimizers, state.started):
            model_dict, optim_dict = get_state_dict(model, optimizers, options=_OPTIONS)
    state.model_tensors, state.model_values = _split(model_dict)
    state.optim_tensors, state.optim_values = _split(optim_dict)
    tensors = {MODEL + k: v for k, v in state.model_tensors.items()}
    tensors.update({OPTIM + k: v for k, v in state.optim_tensors.items()})
    state.pieces = [_piece(name, tensors[name]) for name in sorted(tensors)]
    _assign_writers(state.pieces, [tensors[p.want.name] for p in state.pieces], *place)
    return state


def apply(model, optimizer, state: State, saved: tuple[dict, dict]) -> None:
    """Gives ``state``, whose tensors were filled, back to model and optimizer.

    ``saved`` is the saved values of the model and of the optimizer; a value that was not
    saved keeps what it is here.
    """
    if model is None:
        return
    model_dict = {**state.model_tensors, **state.model_values, **saved[0]}
    if optimizer is None:
        set_model_state_dict(model, model_dict)
        return
    optim_dict = {**state.optim_tensors, **state.optim_values, **saved[1]}
    optimizers = _optimizers(optimizer)
    with _stateless(optimizers, state.started):
        set_state_dict(model, optimizers, model_state_dict=model_dict, optim_state_dict=optim_dict,
                       options=_OPTIONS)
    prepare_optimizer(optimizer, state.started)


def prepare_optimizer(optimizer, started: list[bool]) -> None:
    """Lets the optimizers hold as much state as when they were saved; ``started`` is one flag each."""
    optimizers = _optimizers(optimizer)
    if len(started) != len(optimizers):
        raise InvalidArgument(f"saved with {len(started)} optimizers, restored with {len(optimizers)}")
    for optim, had_state in zip(optimizers, started):
        optim.zero_grad(set_to_none=True)
        if not had_state or not _has_state(optim):
            optim.state.clear()


def _has_state(optimizer: torch.optim.Optimizer) -> bool:
    return any(optimizer.state.values())


@contextlib.contextmanager
def _stateless(optimizers: tuple, started: list[bool]):
    # torch creates missing state with a step of rate zero, which moves Adam's step count -
    # unless a gradient is set: lend one to each optimizer that is to stay without state.
    lent = []
    for optim, has_state in zip(optimizers, started):
        params = [p for g in optim.param_groups for p in g["params"]]
        if not has_state and params and all(p.grad is None for p in params):
            lent.append(params[0])
            params[0].grad = torch.zeros_like(params[0])
    try:
        yield
    finally:
        for param in lent:
            param.grad = None


def layout_hash(pieces: Iterable[Piece], world_size: int) -> bytes:
    """16 bytes over names, dtypes and global shapes: equal on all ranks of one job."""
    digest = hashlib.blake2b(b"gemel.layout.1", digest_size=16)
    digest.update(world_size.to_bytes(4, "little"))
    for want in sorted((p.want for p in pieces), key=lambda w: w.name):
        name = want.name.encode()
        digest.update(len(name).to_bytes(4, "little") + name)
        digest.update(CODE_OF_DTYPE[want.dtype].to_bytes(2, "little"))
        digest.update(len(want.global_shape).to_bytes(2, "little"))
        for size in want.global_shape:
            digest.update(size.to_bytes(8, "little"))
    return digest.digest()


def _optimizers(optimizer) -> tuple:
    return (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else tuple(optimizer)


def _split(state_dict: dict) -> tuple[dict, dict]:
    tensors = {k: v for k, v in state_dict.items() if isinstance(v, torch.Tensor)}
    return tensors, {k: v for k, v in state_dict.items() if k not in tensors}


def _piece(name: str, tensor: torch.Tensor) -> Piece:
    if isinstance(tensor, DTensor):
        local, offsets = _local_box(name, tensor)
    elif type(tensor) in (torch.Tensor, torch.nn.Parameter):
        local, offsets = tensor.detach(), (0,) * tensor.dim()
    else:
        raise InvalidArgument(f"{name}: {type(tensor).__name__} cannot be kept; shard with fully_shard "
                              "or tensor parallel, both of which use DTensor")
    dtype = str(local.dtype).removeprefix("torch.")
    if dtype not in CODE_OF_DTYPE or local.layout != torch.strided or local.dim() > NDIM_MAX:
        raise InvalidArgument(f"{name}: {dtype}, {local.layout}, {local.dim()} dimensions cannot be kept")
    return Piece(Want(name, dtype, tuple(tensor.shape), offsets, tuple(local.shape)), local)


@functools.lru_cache(maxsize=4096)
def _box(shape, mesh, placements, coordinate) -> tuple:
    # The same few shapes come with every step, each for a parameter and its moments.
    del coordinate  # the mesh's answer depends on it, so the cache must
    return compute_local_shape_and_global_offset(shape, mesh, placements)


def _local_box(name: str, tensor: DTensor) -> tuple[torch.Tensor, tuple[int, ...]]:
    if any(isinstance(p, Partial) for p in tensor.placements):
        raise InvalidArgument(f"{name}: has a pending reduction ({tensor.placements}); save between steps")
    mesh = tensor.device_mesh
    shape, offsets = _box(tensor.shape, mesh, tensor.placements, tuple(mesh.get_coordinate() or ()))
    with torch.no_grad():
        local = tensor.to_local()
    if len(offsets) != tensor.dim():  # this rank is not in the mesh of this tensor
        return local.new_empty((0,) * tensor.dim()), (0,) * tensor.dim()
    if tuple(local.shape) != tuple(shape):
        raise InvalidArgument(f"{name}: local shape {list(local.shape)}, placements {tensor.placements} "
                              f"say {list(shape)}")
    return local, tuple(offsets)


def _assign_writers(pieces: list[Piece], tensors: list, rank: int, world_size: int) -> None:
    """Each piece that several ranks hold gets one writer; the largest first, to the least loaded."""
    loads: dict = {}
    order = sorted(range(len(pieces)), key=lambda i: (-_global_bytes(pieces[i]), pieces[i].want.name))
    for i in order:
        group, size, mine = _replicas(tensors[i], rank, world_size)
        if size == 1:
            continue
        load = loads.setdefault(group, [0] * size)
        writer = load.index(min(load))
        load[writer] += _global_bytes(pieces[i])
        pieces[i].written = writer == mine


def _global_bytes(piece: Piece) -> int:
    return math.prod(piece.want.global_shape) * ITEM_BYTES[piece.want.dtype]


def _replicas(tensor, rank: int, world_size: int) -> tuple:
    """(which ranks share copies of this tensor, how many copies, which of them is here)."""
    if not isinstance(tensor, DTensor):
        return "world", world_size, rank
    mesh = tensor.device_mesh
    dims = tuple(d for d, p in enumerate(tensor.placements) if isinstance(p, Replicate) and mesh.size(d) > 1)
    coordinate = mesh.get_coordinate()
    if not dims or coordinate is None:
        return "", 1, 0
    mine = 0
    for d in dims:
        mine = mine * mesh.size(d) + coordinate[d]
    return (mesh, dims), math.prod(mesh.size(d) for d in dims), mine
