# SPDX-License-Identifier: Apache-2.0
"""Real process groups: what one number of ranks saved, another restores bit for bit."""

import json
import random
from pathlib import Path

import pytest
from conftest import ROOT
from ranks import run_ranks

from gemel.torch import layout as fmt

HERE = Path(__file__).parent
TRAIN = [HERE / "run_with_file_store.py", ROOT / "integrations/python/examples/train.py",
         "--width", "36", "--layers", "2", "--context", "24", "--hash-every", "1"]


def work(tmp_path: Path, case: str, action: str, world: int) -> list[dict]:
    out = tmp_path / f"{case}-{action}-{world}"
    run_ranks(world, [HERE / "torch_worker.py", case, action, tmp_path / "store", out])
    return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(world)]


def layouts(tmp_path: Path, world: int) -> list[fmt.Layout]:
    result = []
    for rank in range(world):
        path = tmp_path / "store" / "job" / f"1-{rank}.shard"
        info = json.loads(path.with_suffix(".json").read_text())
        result.append(fmt.decode(path.read_bytes()[:info["layout_bytes"]]))
    return result


def check_each_byte_once(saved: list[fmt.Layout]) -> list[int]:
    """Every element of every tensor is in exactly one shard; the tensor bytes of each shard."""
    written: dict[str, int] = {}
    whole: dict[str, int] = {}
    for entry in (e for layout in saved for e in layout.entries if e.kind == fmt.KIND_TENSOR):
        written[entry.name] = written.get(entry.name, 0) + entry.data_bytes
        size = fmt.ITEM_BYTES[entry.dtype]
        for n in entry.global_shape:
            size *= n
        whole[entry.name] = size
    assert written == whole
    return [sum(e.data_bytes for e in s.entries if e.kind == fmt.KIND_TENSOR) for s in saved]


@pytest.mark.parametrize("source, world, targets", [
    ("fsdp", 2, [("fsdp", 1), ("fsdp", 3), ("fsdp", 4), ("ddp", 2)]),
    ("fsdp", 3, [("fsdp", 2), ("plain", 1)]),
    ("hsdp", 4, [("fsdp", 2)]),
    ("ddp", 3, [("ddp", 2), ("fsdp", 4)])])
def test_another_world_size_or_sharding_restores_the_same_bits(tmp_path, source, world, targets):
    saved = work(tmp_path, source, "save", world)
    check_each_byte_once(layouts(tmp_path, world))
    for case, ranks in targets:
        restored = work(tmp_path, case, "check", ranks)
        for rank, facts in enumerate(restored):
            assert (facts["step"], facts["position"], facts["hash"]) == (3, 1234, saved[0]["hash"])
            origin = rank if rank < world else 0
            assert facts["extra"] == {"rank": origin, "note": "saved"}
            fresh = random.Random(100 + rank).random()
            assert facts["draw"] == (saved[rank]["draw"] if rank < world else fresh)


def test_replicated_tensors_are_shared_out_evenly(tmp_path):
    work(tmp_path, "ddp", "save", 3)
    loads = check_each_byte_once(layouts(tmp_path, 3))
    assert max(loads) < 0.5 * sum(loads), loads


def train(tmp_path: Path, name: str, world: int, steps: int) -> list[dict]:
    log = tmp_path / f"{name}.jsonl"
    run_ranks(world, [*TRAIN, "--job", name.split("-")[0], "--steps", steps, "--log", f"{log}.{{rank}}"],
              {"GEMEL_ADDRESS": str(tmp_path / "store")})
    lines = Path(f"{log}.0").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] in ("step", "hash")]


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path, "whole-1", 2, 6)
    again = train(tmp_path, "again-1", 2, 6)
    facts = [(e["step"], e["loss"], e["hash"]) for e in whole]
    assert facts == [(e["step"], e["loss"], e["hash"]) for e in again]
    train(tmp_path, "cut-1", 2, 3)
    resumed = train(tmp_path, "cut-2", 2, 6)
    assert resumed[0]["event"] == "hash" and resumed[0]["hash"] == whole[2]["hash"]
    assert [(e["step"], e["loss"], e["hash"]) for e in resumed[1:]] == facts[3:]


def test_the_example_restores_at_another_world_size(tmp_path):
    saved = train(tmp_path, "grow-1", 2, 2)
    for world in (1, 3, 4):
        restored = train(tmp_path, f"grow-on-{world}", world, 2)
        assert [(e["event"], e["step"], e["hash"]) for e in restored] == [("hash", 2, saved[1]["hash"])]
