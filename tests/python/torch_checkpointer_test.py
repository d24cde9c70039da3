# SPDX-License-Identifier: Apache-2.0
"""Checkpointer in one process, over the file store: rules, errors, values."""

import json
import random
import threading

import file_store
import pytest
import torch
from torch import nn

import gemel.torch.checkpointer as checkpointer
from gemel import clients, errors
from gemel.torch import layout
from gemel.torch.commits import IN_FLIGHT_MAX


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes Checkpointers on one store; the client's faults are at `.faults`."""
    made = []

    def factory(job="job", **options):
        made.append(checkpointer.Checkpointer(job, str(tmp_path), **{"timeout_s": 5, **options}))
        made[-1].faults = made[-1]._client.faults
        return made[-1]

    monkeypatch.setattr(checkpointer, "connect", file_store.Client)
    yield factory
    for ckpt in made:
        if ckpt._client is not None:
            ckpt._leave()


def small(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 300), nn.Linear(300, 300))
    return model, torch.optim.AdamW(model.parameters())


def step_once(model, optimizer):
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def bits(model, optimizer):
    tensors = [*model.state_dict().values(), *(v for s in optimizer.state.values() for v in s.values())]
    return [t.detach().clone() for t in tensors]


def assert_equal(a, b):
    assert len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def test_scalars_lie_before_large_tensors_so_that_other_ranks_find_them_in_one_chunk(make, tmp_path):
    model, optimizer = small()
    step_once(model, optimizer)
    ckpt = make()
    ckpt.save(1, model=model, optimizer=optimizer)
    ckpt.wait()
    written = tmp_path / "job" / "1-0.shard"
    layout_bytes = json.loads(written.with_suffix(".json").read_text())["layout_bytes"]
    entries = layout.decode(written.read_bytes()[:layout_bytes]).entries
    sizes = [e.data_bytes for e in entries if e.kind == layout.KIND_TENSOR]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert [e.data_offset for e in entries] == sorted(e.data_offset for e in entries)


def test_state_comes_back_bit_equal_into_a_fresh_model(make):
    model, optimizer = small()
    step_once(model, optimizer)
    ckpt = make()
    ckpt.save(1, model=model, optimizer=optimizer)
    assert ckpt.wait()["redundancy"] == "FULL"
    before = bits(model, optimizer)
    fresh = small(1)
    again = make()
    assert again.restore(model=fresh[0], optimizer=fresh[1]) == 1
    assert_equal(before, bits(*fresh))
    assert again.restored.sequence == 1


def test_saving_before_the_first_step_does_not_touch_the_optimizer(make):
    model, optimizer = small()
    ckpt = make()
    ckpt.save(0, model=model, optimizer=optimizer)
    ckpt.wait()
    assert not optimizer.state and all(p.grad is None for p in model.parameters())
    used = small(1)
    step_once(*used)
    assert make().restore(model=used[0], optimizer=used[1]) == 0
    assert not used[1].state
    step_once(model, optimizer)
    step_once(*used)
    assert_equal(bits(model, optimizer), bits(*used))


def test_non_contiguous_weights_and_tied_weights(make):
    model = nn.ModuleDict({"a": nn.Linear(300, 400, bias=False), "b": nn.Linear(300, 400, bias=False)})
    model["a"].weight = nn.Parameter(torch.randn(300, 400).t())
    model["b"].weight = model["a"].weight
    ckpt = make()
    ckpt.save(1, model=model)
    ckpt.wait()
    want = model["a"].weight.detach().clone()
    with torch.no_grad():
        model["a"].weight.zero_()
    make().restore(model=model)
    assert torch.equal(model["b"].weight, want) and not model["a"].weight.is_contiguous()


def test_random_numbers_loader_and_extra_come_back(make):
    import numpy

    class Loader:
        def __init__(self, at):
            self.at = at

        def state_dict(self):
            return {"at": self.at, "order": torch.arange(3)}

        def load_state_dict(self, state):
            self.at = state["at"]

    ckpt = make()
    random.seed(3), numpy.random.seed(3), torch.manual_seed(3)
    ckpt.save(7, dataloader=Loader(41), extra={"best": 1.5, "tags": ["a", (1, None)], "inner": Loader(9)})
    ckpt.wait()
    drawn = (random.random(), numpy.random.rand(), torch.rand(3).tolist())
    loader, inner = Loader(0), Loader(0)
    extra = {"inner": inner}
    again = make()
    assert again.restore(dataloader=loader, extra=extra) == 7
    assert drawn == (random.random(), numpy.random.rand(), torch.rand(3).tolist())
    assert (loader.at, inner.at, extra["best"], extra["tags"]) == (41, 9, 1.5, ["a", (1, None)])


def test_never_committed_starts_or_fails_as_asked(make, capsys):
    ckpt = make("unknown")
    assert ckpt.restore() == 0
    assert "file-store" in capsys.readouterr().err
    with pytest.raises(errors.NotFound, match="unknown"):
        make("unknown", if_missing="fail").restore()


def test_the_attempt_rises_also_when_a_save_fails(make):
    model, optimizer = small()
    ckpt = make()
    ckpt.faults["write"] = True
    with pytest.raises(errors.ResourceExhausted):
        ckpt.save(1, model=model, optimizer=optimizer)
    assert ckpt.save(1, model=model, optimizer=optimizer).attempt == 2
    ckpt.wait()
    assert make().restore(model=model, optimizer=optimizer) == 1


@pytest.mark.parametrize("told_by", ["save", "wait", "close"])
def test_a_failure_in_the_background_is_told_once_by_the_next_call(make, told_by):
    ckpt = make()
    ckpt.faults["commit"] = True
    ckpt.save(1)
    with pytest.raises(errors.Aborted, match="commit fault"):
        if told_by == "save":
            while True:  # the failure may come after the next save has begun
                ckpt.save(2)
        getattr(ckpt, told_by)()
    if told_by != "close":
        ckpt.save(3)
        assert ckpt.wait()["name"] == "3"


def test_saves_overlap_and_are_bounded(make):
    ckpt = make()
    ckpt.faults["commit_gate"] = threading.Event()
    for step in range(1, IN_FLIGHT_MAX + 1):
        ckpt.save(step)  # returns, though nothing commits
    one_more = threading.Thread(target=ckpt.save, args=(IN_FLIGHT_MAX + 1,), daemon=True)
    one_more.start()
    one_more.join(0.2)
    assert one_more.is_alive() and not any(s.commit_ms for s in ckpt.stats)
    ckpt.faults["commit_gate"].set()
    one_more.join(10)
    assert not one_more.is_alive() and ckpt.wait()["name"] == str(IN_FLIGHT_MAX + 1)
    assert [s.step for s in ckpt.stats] == list(range(1, IN_FLIGHT_MAX + 2))


def test_skip_leaves_nothing_to_wait_for(make):
    ckpt = make(on_busy="skip")
    ckpt.faults["skip"] = True
    assert ckpt.save(1).skipped
    assert ckpt.wait() is None


def test_a_strategy_that_there_is_not_is_refused_by_name(make):
    with pytest.raises(errors.InvalidArgument, match="strategy='star': must be one of group, ring"):
        make(strategy="star")


def test_lost_bytes_move_the_restore_to_the_older_snapshot(make):
    model, optimizer = small()
    ckpt = make(keep=2)
    for step in (1, 2):
        step_once(model, optimizer)
        ckpt.save(step, model=model, optimizer=optimizer)
        ckpt.wait()
        if step == 1:
            before = bits(model, optimizer)
    again = make()
    again.faults["lost"] = "2"
    assert again.restore(model=model, optimizer=optimizer) == 1
    assert again.restored.moves == 1
    assert_equal(before, bits(model, optimizer))


def test_bytes_that_no_source_gives_for_a_while_are_read_again(make):
    model, optimizer = small()
    step_once(model, optimizer)
    with make() as ckpt:
        ckpt.save(1, model=model, optimizer=optimizer)
    before = bits(model, optimizer)
    step_once(model, optimizer)
    again = make()
    again.faults["cut_off"] = 2
    assert again.restore(model=model, optimizer=optimizer) == 1
    assert again.restored.moves == 0 and again.faults["cut_off"] == 0
    assert_equal(before, bits(model, optimizer))


def test_a_restore_that_stays_cut_off_ends_in_time_with_the_last_reason(make):
    with make() as ckpt:
        ckpt.save(1)
    again = make(timeout_s=0.2)
    again.faults["cut_off"] = 1 << 30
    with pytest.raises(errors.DeadlineExceeded, match="no source gives shard 0"):
        again.restore()


def test_another_model_is_refused_by_name(make):
    model, optimizer = small()
    ckpt = make()
    ckpt.save(1, model=model, optimizer=optimizer)
    ckpt.wait()
    other = nn.Sequential(nn.Linear(4, 300), nn.Linear(300, 200))
    with pytest.raises(errors.InvalidArgument, match=r"model/1\.(bias|weight)"):
        make().restore(model=other)
    with pytest.raises(errors.InvalidArgument, match=r"model/1\.bias"):
        make().restore(model=nn.Sequential(nn.Linear(4, 300), nn.Linear(300, 300, bias=False)))
    with pytest.raises(errors.NotFound, match=r"model/2\."):
        make().restore(model=nn.Sequential(*model, nn.Linear(3, 3)))


def test_a_paused_old_trainer_is_refused(make):
    old, new = make(), make()
    with pytest.raises(errors.Aborted):
        old.save(1)
    new.save(1)
    new.wait()
    assert old.epoch < new.epoch


def test_what_cannot_be_kept_is_refused_with_its_key(make):
    ckpt = make()
    with pytest.raises(errors.InvalidArgument, match=r"extra\.config"):
        ckpt.save(1, extra={"config": object()})


def test_a_closed_checkpointer_says_so(make):
    ckpt = make()
    ckpt.close()
    ckpt.close()
    with pytest.raises(errors.FailedPrecondition, match="closed"):
        ckpt.save(1)


@pytest.mark.parametrize("rank, want", [("0", "a"), ("1", "b"), ("2", "a")])
def test_a_process_takes_its_own_servers_address(monkeypatch, rank, want):
    monkeypatch.setenv("GEMEL_ADDRESS", "a, b")
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert clients.own_address(None) == want
    assert clients.own_address("c") == "c"
    monkeypatch.delenv("GEMEL_ADDRESS")
    with pytest.raises(errors.InvalidArgument, match="GEMEL_ADDRESS"):
        clients.own_address(None)
