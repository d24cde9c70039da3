# SPDX-License-Identifier: Apache-2.0
"""Exports and imports of real clusters: read with the safetensors library and with dcp.load, bit for bit; killed,
damaged, out of space, and going on.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensors
import torch
import torch.distributed.checkpoint as dcp
from cluster import GEMEL, environment, running, until
from gemel import _native
from safetensors import safe_open
from small_disk import resize, small_disk
from torch.distributed.checkpoint.filesystem import FileSystemReader

USAGE, NOT_FOUND, REFUSED, FULL, DAMAGED = 2, 3, 5, 6, 7
LARGE_MIB = 96


def with_python(**more):
    return environment(GEMEL_PYTHON=sys.executable, **more)


def export(cluster, *arguments, code=0):
    return cluster.gemel("export", *arguments, code=code)


def exported(folder):
    """Every tensor of an export by its name, as the safetensors library reads it."""
    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                assert name not in found
                found[name] = file.get_tensor(name)
    return found


def check_tensors(folder, seed, spec):
    """What the library reads is what was saved, in every bit."""
    found = exported(folder)
    for name, (dtype, shape, _) in spec.items():
        got = found.pop(name.split("/", 1)[1])
        wanted = tensors.tensor(seed, name, dtype, shape)
        if dtype == "complex128":  # which the format lacks
            assert got.dtype == torch.uint8 and got.shape == (*shape, 16)
            got = got.view(torch.complex128).reshape(shape)
        assert got.dtype == wanted.dtype and got.shape == wanted.shape, name
        assert tensors_equal(got, wanted), name
    assert all(name.startswith(("values/", "layout@")) for name in found), sorted(found)
    return found


def tensors_equal(a, b):
    as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) if t.dim() else t.reshape(1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*as_bytes)


def shard_bytes(cluster, job, name=None):
    """Every byte of every shard, as the cluster gives it."""
    client = _native.Client(cluster.sockets[0], 30.0)
    record = client.begin_read(job, name, 60.0)
    shards = [bytes(record.read(s["rank"], 0, s["bytes"])) for s in record.shards]
    del record
    client.close()
    return shards


@pytest.fixture(scope="module")
def saved(shared):
    """A job of three ranks with one committed step."""
    with tensors.Trainer("gpt", shared.sockets, world=3) as trainer:
        trainer.save(7)
    return shared


@pytest.fixture(scope="module")
def big():
    """A job whose export takes a moment, on a cluster that has room for it several times."""
    with running(servers=2, memory="768MiB") as made:
        with tensors.Trainer("big", made.sockets, spec=tensors.large(LARGE_MIB), copies=1, min_copies=1) as trainer:
            trainer.save(1)
        yield made


# ---- what is written


def test_an_export_is_read_by_the_safetensors_library_bit_for_bit(saved, tmp_path):
    done = export(saved, "gpt@7", tmp_path / "out")
    assert "complex128" in done.err and "U8" in done.err
    rest = check_tensors(tmp_path / "out", 7, tensors.SMALL)
    for rank in range(3):
        assert rest[f"layout@{rank}"].dtype == torch.uint8
        wanted = tensors.values.encode(tensors.rank_values(7, rank), "rank")
        assert rest[f"values/rank@{rank}"].numpy().tobytes() == wanted
    record = json.loads((tmp_path / "out" / "gemel.json").read_text())
    assert (record["job"], record["name"], record["world_size"]) == ("gpt", "7", 3)
    assert {f["name"] for f in record["files"]} == {p.name for p in (tmp_path / "out").iterdir()} - {"gemel.json"}


def test_the_newest_step_is_taken_and_what_is_not_there_is_named(saved, tmp_path):
    value = saved.json("export", "gpt", tmp_path / "out")
    assert value["name"] == "7" and value["was_complete"] is False and value["warnings"]
    for what in ("gpt@8", "nope"):
        done = export(saved, what, tmp_path / "other", code=NOT_FOUND)
        assert what.split("@")[0] in done.err and not (tmp_path / "other").exists()


def test_a_second_export_is_left_alone_and_another_snapshot_refused(saved, tmp_path):
    export(saved, "gpt", tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert "already whole" in export(saved, "gpt", tmp_path).out
    assert before == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    with tensors.Trainer("other", saved.sockets) as trainer:
        trainer.save(9)
    refused = export(saved, "other", tmp_path, code=REFUSED)
    assert "gpt@7" in refused.err and "--force" in refused.err
    export(saved, "other", tmp_path, "--force")
    check_tensors(tmp_path, 9, tensors.SMALL)


def test_a_directory_with_something_else_is_refused(saved, tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    assert "thesis.tex" in export(saved, "gpt", tmp_path, code=REFUSED).err
    export(saved, "gpt", tmp_path, "--force")
    assert (tmp_path / "thesis.tex").read_text() == "years"


# ---- and back


def test_an_import_is_the_same_shards_again(saved, tmp_path):
    export(saved, "gpt", tmp_path)
    value = saved.json("import", tmp_path, "--job", "copy")
    assert (value["job"], value["name"], value["world_size"]) == ("copy", "7", 3)
    assert shard_bytes(saved, "copy") == shard_bytes(saved, "gpt")


def test_an_import_over_a_job_that_is_there_needs_a_word(saved, tmp_path):
    with tensors.Trainer("running", saved.sockets) as trainer:
        trainer.save(3)
        export(saved, "running", tmp_path)
        refused = saved.gemel("import", tmp_path, code=REFUSED)
        assert "running" in refused.err and "--takeover" in refused.err and "lose its epoch" in refused.err
        trainer.save(4)  # nobody was fenced
        saved.gemel("import", tmp_path, "--takeover")
        with pytest.raises(Exception, match="epoch|superseded|newer"):
            trainer.save(5)
    assert saved.json("export", "running", tmp_path / "after")["name"] == "3"


def test_safetensors_files_of_others_become_one_shard(saved, tmp_path):
    from safetensors.torch import save_file

    spec = {"a.weight": ("float32", (3, 5), None), "b": ("bfloat16", (7,), None)}
    save_file({n: tensors.tensor(1, n, d, s) for n, (d, s, _) in spec.items()}, tmp_path / "model.safetensors")
    done = saved.gemel("import", tmp_path / "model.safetensors", code=USAGE)
    assert "--job" in done.err and "--name" in done.err
    saved.gemel("import", tmp_path / "model.safetensors", "--job", "foreign", "--name", "0")
    export(saved, "foreign", tmp_path / "back")
    found = exported(tmp_path / "back")
    assert all(tensors_equal(found[n], tensors.tensor(1, n, d, s)) for n, (d, s, _) in spec.items())
    assert saved.gemel("import", tmp_path / "nothing", "--job", "x", "--name", "0", code=NOT_FOUND).err


@pytest.mark.parametrize("header", [b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x00", b""])
def test_a_hostile_file_is_refused(saved, tmp_path, header):
    (tmp_path / "x.safetensors").write_bytes(header + b"data")
    done = saved.gemel("import", tmp_path, "--job", "hostile", "--name", "0", code=USAGE)
    assert "x.safetensors" in done.err and "safetensors:" in done.err


# ---- damage, crashes, space


def test_a_flipped_byte_in_any_file_is_refused_by_name(saved, tmp_path):
    export(saved, "gpt", tmp_path)
    saved.gemel("export", "gpt", tmp_path, "--verify-only")
    for path in sorted(tmp_path.glob("*.safetensors")):
        good = path.read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 8]) + good[at + 1:])
            for command in (("export", "gpt", tmp_path, "--verify-only"), ("import", tmp_path, "--job", "damaged")):
                assert path.name in saved.gemel(*command, code=DAMAGED).err
        path.write_bytes(good[:-1])
        assert path.name in saved.gemel("import", tmp_path, "--job", "damaged", code=DAMAGED).err
        path.write_bytes(good)
    (tmp_path / "values.safetensors").unlink()
    assert "values.safetensors" in saved.gemel("import", tmp_path, "--job", "damaged", code=DAMAGED).err


def start(cluster, *arguments, env=None, **options):
    return subprocess.Popen([str(GEMEL), *map(str, arguments), "--dir", cluster.dir], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env or with_python(), **options)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_it_goes_on_with_the_files_that_are_whole(big, tmp_path, number):
    process = start(big, "export", "big", tmp_path)
    journal = tmp_path / "gemel.partial.json"
    until("it writes", lambda: journal.exists() and any(p.stat().st_size for p in tmp_path.glob(".model*.part")))
    process.send_signal(signal.SIGSTOP)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode != 0 and not (tmp_path / "gemel.json").exists()
    assert "not complete" in big.gemel("import", tmp_path, "--job", "half", code=NOT_FOUND).err
    value = big.json("export", "big", tmp_path)
    assert not journal.exists() and not list(tmp_path.glob(".*")), list(tmp_path.iterdir())
    assert value["bytes"] > LARGE_MIB << 20
    check_tensors(tmp_path, 1, tensors.large(LARGE_MIB))


def test_memory_stays_bounded(big, tmp_path):
    process = start(big, "export", "big", tmp_path)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            break
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))])
        time.sleep(0.005)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert 0 < peak < 256 * 1024, f"{peak} KiB of its own"


def test_a_full_disk_is_named_and_with_space_it_goes_on(big, tmp_path):
    with small_disk(tmp_path / "small", "64m") as place:
        done = export(big, "big", place / "out", code=FULL)
        assert str(place) in done.err and "make room" in done.err
        assert not (place / "out" / "gemel.json").exists()
        resize(place, "600m")
        export(big, "big", place / "out")
        check_tensors(place / "out", 1, tensors.large(LARGE_MIB))


def test_a_killed_import_leaves_nothing_and_can_be_repeated(big, tmp_path):
    export(big, "big", tmp_path)
    process = start(big, "import", tmp_path, "--job", "again", "--copies", "1")
    until("it has opened the snapshot", lambda: "again" in {j["job"] for j in big.json("jobs")["jobs"]})
    process.kill()
    process.communicate(timeout=30)
    # What the dead process had mapped is free as soon as its server has seen that it died.
    committed = [s for s in snapshots(big, "again") if s["state"] == "COMMITTED"]
    if not committed:  # else the kill came too late, and there is nothing to repeat
        until("the memory is free", lambda: big.gemel("import", tmp_path, "--job", "again", "--copies", "1", code=None).code == 0)
    assert shard_bytes(big, "again") == shard_bytes(big, "big")
    big.gemel("rm", "again", "--yes")


def snapshots(cluster, job):
    done = cluster.gemel("snapshots", job, "-o", "json", code=None)
    return json.loads(done.out)["snapshots"] if done.code == 0 else []


# ---- torch's own format


def load(folder, spec):
    """dcp.load with torch's reader into empty tensors."""
    state = {"model": {}, "optim": {}}
    for name, (dtype, shape, _) in spec.items():
        part, key = name.split("/", 1)
        state[part][key] = torch.empty(shape, dtype=tensors.DTYPES[dtype])
    dcp.load(state, storage_reader=FileSystemReader(folder), no_dist=True)
    return state


def check_loaded(state, seed, spec):
    for name, (dtype, shape, _) in spec.items():
        part, key = name.split("/", 1)
        assert tensors_equal(state[part][key], tensors.tensor(seed, name, dtype, shape)), name


def export_dcp(cluster, *arguments, code=0):
    done = subprocess.run([str(GEMEL), "export", *map(str, arguments), "--format", "dcp", "--dir", cluster.dir],
                          capture_output=True, text=True, timeout=120, env=with_python(), stdin=subprocess.DEVNULL)
    assert done.returncode == code, done
    return done


def import_dcp(cluster, *arguments, code=0):
    done = subprocess.run([str(GEMEL), "import", *map(str, arguments), "--dir", cluster.dir], capture_output=True, text=True,
                          timeout=120, env=with_python(), stdin=subprocess.DEVNULL)
    assert done.returncode == code, done
    return done


def test_dcp_load_reads_an_export_with_torchs_own_reader(saved, tmp_path):
    export_dcp(saved, "gpt@7", tmp_path)
    check_loaded(load(tmp_path, tensors.SMALL), 7, tensors.SMALL)
    export_dcp(saved, "gpt", tmp_path)  # is whole already
    export_dcp(saved, "gpt", tmp_path, "--verify-only")
    assert "--force" in export_dcp(saved, "other", tmp_path, code=REFUSED).stderr


def test_a_dcp_snapshot_goes_out_and_comes_back(saved, tmp_path):
    from gemel.torch import StorageReader, StorageWriter

    state = {"model": {"w": torch.arange(12.0).reshape(3, 4), "empty": torch.empty(0, 4)}, "step": 5, "note": {"a": [1, "x"]}}
    dcp.save(state, storage_writer=StorageWriter("dcp", 5, address=saved.sockets[0]), no_dist=True)
    export_dcp(saved, "dcp@5", tmp_path / "out")
    back = {"model": {"w": torch.zeros(3, 4), "empty": torch.ones(0, 4)}, "step": 0, "note": {"a": [0, ""]}}
    dcp.load(back, storage_reader=FileSystemReader(tmp_path / "out"), no_dist=True)
    assert torch.equal(back["model"]["w"], state["model"]["w"]) and back["step"] == 5 and back["note"] == {"a": [1, "x"]}
    done = import_dcp(saved, tmp_path / "out", "--job", "dcp", "--name", "5", code=REFUSED)
    assert "--takeover" in done.stderr
    import_dcp(saved, tmp_path / "out", "--job", "dcp-copy", "--name", "5")
    again = {"model": {"w": torch.zeros(3, 4), "empty": torch.ones(0, 4)}, "step": 0, "note": {"a": [0, ""]}}
    dcp.load(again, storage_reader=StorageReader("dcp-copy", 5, address=saved.sockets[0]), no_dist=True)
    assert torch.equal(again["model"]["w"], state["model"]["w"]) and again["step"] == 5 and again["note"] == {"a": [1, "x"]}
    # The same snapshot also goes through safetensors, values and all.
    export(saved, "dcp", tmp_path / "st")
    saved.gemel("import", tmp_path / "st", "--job", "dcp-st")
    assert shard_bytes(saved, "dcp-st") == shard_bytes(saved, "dcp")


def test_a_dcp_directory_by_torch_alone_is_imported(saved, tmp_path):
    from gemel.torch import StorageReader

    state = {"model": {"w": torch.arange(12.0).reshape(3, 4)}, "step": 5}
    dcp.save(state, checkpoint_id=str(tmp_path), no_dist=True)
    assert "--job" in import_dcp(saved, tmp_path, code=USAGE).stderr
    import_dcp(saved, tmp_path, "--job", "torch", "--name", "5")
    back = {"model": {"w": torch.zeros(3, 4)}, "step": 0}
    dcp.load(back, storage_reader=StorageReader("torch", 5, address=saved.sockets[0]), no_dist=True)
    assert torch.equal(back["model"]["w"], state["model"]["w"]) and back["step"] == 5


def test_a_killed_dcp_export_goes_on_with_the_shards_that_are_whole(big, tmp_path):
    process = start(big, "export", "big", tmp_path, "--format", "dcp", start_new_session=True)
    until("one shard is written", lambda: (tmp_path / "__1_0.distcp").exists() or process.poll() is not None, 60.0)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    kept = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("__0_0.distcp")}
    assert kept and not (tmp_path / ".metadata").exists()
    export_dcp(big, "big", tmp_path)
    assert all((tmp_path / name).stat().st_mtime_ns == at for name, at in kept.items())
    check_loaded(load(tmp_path, tensors.large(LARGE_MIB)), 1, tensors.large(LARGE_MIB))


def test_a_flipped_byte_in_a_dcp_export_is_found(saved, tmp_path):
    export_dcp(saved, "gpt", tmp_path)
    for path in sorted(p for p in tmp_path.iterdir() if p.name != "gemel.json"):
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert path.name in export_dcp(saved, "gpt", tmp_path, "--verify-only", code=DAMAGED).stderr
        assert path.name in import_dcp(saved, tmp_path, "--job", "bad", "--name", "1", code=DAMAGED).stderr
        path.write_bytes(good)
    export_dcp(saved, "gpt", tmp_path, "--verify-only")


def test_without_torch_the_error_says_how_to_get_it(saved, tmp_path):
    def run(python):
        return subprocess.run([str(GEMEL), "export", "gpt", str(tmp_path / "x"), "--format", "dcp", "--dir", saved.dir],
                              capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                              env={**environment(GEMEL_PYTHON=python), "PYTHONPATH": ""})

    bare = shutil.which("python3", path="/usr/bin")
    for python in filter(None, (bare, "no-such-python")):
        done = run(python)
        assert done.returncode == REFUSED and "pip install torch" in done.stderr and "GEMEL_PYTHON" in done.stderr, done
    done = subprocess.run([str(GEMEL), "export", "gpt", "s3://bucket/x", "--format", "dcp", "--dir", saved.dir],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == USAGE and "directory" in done.stderr
