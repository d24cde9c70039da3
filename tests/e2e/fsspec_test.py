# SPDX-License-Identifier: Apache-2.0
"""gemel:// on a real cluster: fsspec's own conformance tests, torch's file writer, and what they do not ask."""

import io
import os
import threading
import warnings

import cluster as clusters
import fsspec
import fsspec.tests.abstract as abstract
import pytest
import torch
import torch.distributed.checkpoint as dcp

import gemel.fsspec
from gemel import clients, errors


@pytest.fixture(scope="module")
def files_cluster():
    """Small slabs: a file takes at least one."""
    with clusters.running(servers=2, memory="256MiB", slab_bytes="1MiB") as made:
        yield made


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, files_cluster):
        return gemel.fsspec.GemelFileSystem(address=files_cluster.sockets[0], persist_every=0, timeout_s=30)

    @pytest.fixture
    def fs_path(self, fs, request):
        # A job for each test: names are short, and nobody's files are in another's way.
        job = f"t{abs(hash(request.node.nodeid)) % 10**9}"
        yield job
        if fs.exists(job):
            fs.rm(job, recursive=True)

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def supports_empty_directories(self):
        return False


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass


class TestOurs(Fixtures):
    def test_a_file_is_there_when_it_is_closed_and_replaced_whole(self, fs, fs_path):
        path = f"{fs_path}/a b/ü:%@.bin"
        with fs.open(path, "wb") as file:
            file.write(b"one")
            file.flush()
            assert not fs.exists(path)
        assert fs.cat_file(path) == b"one"
        old = fs.open(path, "rb")
        fs.pipe_file(path, b"second")
        assert fs.cat_file(path) == b"second" and fs.size(path) == 6
        assert old.read() == b"one"  # pinned since it was opened
        old.close()
        assert fs.ls(f"{fs_path}/a b", detail=False) == [path]
        assert fs.created(path).year >= 2020

    def test_what_was_not_finished_never_appears(self, fs, fs_path):
        path = f"{fs_path}/x"
        with pytest.raises(ValueError):
            with fs.open(path, "wb") as file:
                file.write(b"half")
                raise ValueError
        file = fs.open(path, "wb")
        file.write(b"half")
        del file
        assert not fs.exists(path)
        fs.pipe_file(path, b"")
        assert fs.size(path) == 0 and fs.cat_file(path) == b"" and fs.open(path).read() == b""

    def test_a_transaction_is_all_or_nothing(self, fs, fs_path):
        with pytest.raises(ValueError):
            with fs.transaction:
                with fs.open(f"{fs_path}/a", "wb") as file:
                    file.write(b"1")
                raise ValueError
        assert not fs.exists(f"{fs_path}/a")
        with fs.transaction:
            for name in "ab":
                with fs.open(f"{fs_path}/{name}", "wb") as file:
                    file.write(name.encode())
            assert not fs.exists(f"{fs_path}/a")
        assert fs.cat(fs.find(fs_path)) == {f"{fs_path}/a": b"a", f"{fs_path}/b": b"b"}

    def test_ranges_of_a_large_file(self, fs, fs_path):
        content = os.urandom(3 << 20)
        fs.pipe_file(f"{fs_path}/big", content)
        assert fs.cat_file(f"{fs_path}/big", 1 << 20, (1 << 20) + 5) == content[1 << 20:(1 << 20) + 5]
        assert fs.cat_file(f"{fs_path}/big", -7) == content[-7:]
        with fs.open(f"{fs_path}/big", "rb", block_size=1 << 16) as file:
            file.seek(2_000_001)
            assert file.read(100) == content[2_000_001:2_000_101]
            file.seek(-3, io.SEEK_END)
            assert file.read() == content[-3:]
        assert fs.cat_ranges([f"{fs_path}/big"] * 2, [0, 9], [3, 12]) == [content[:3], content[9:12]]

    def test_what_a_file_cannot_be(self, fs, fs_path):
        fs.pipe_file(f"{fs_path}/f", b"x")
        for mode in ("ab", "r+b"):
            with pytest.raises((NotImplementedError, ValueError)):
                fs.open(f"{fs_path}/f", mode)
        for call in (lambda: fs.open(f"{fs_path}/none"), lambda: fs.rm(f"{fs_path}/none"), lambda: fs.ls(f"{fs_path}/none"),
                     lambda: fs.info("no-such-job"), lambda: fs.cat_file(f"{fs_path}/none")):
            with pytest.raises(FileNotFoundError):
                call()
        with pytest.raises(IsADirectoryError):
            fs.open(fs_path, "wb")
        with pytest.raises(errors.FailedPrecondition, match="gemel jobs"):
            fs.ls("")
        with pytest.raises(errors.InvalidArgument, match="128"):
            fs.open(f"{fs_path}/{'n' * 200}", "wb").close()

    def test_names_that_a_listing_needs(self, fs, fs_path):
        for name in ("a/1", "a/2", "ab", "c/d/3"):
            fs.touch(f"{fs_path}/{name}")
        assert fs.ls(fs_path, detail=False) == [f"{fs_path}/a", f"{fs_path}/ab", f"{fs_path}/c"]
        assert fs.find(fs_path) == [f"{fs_path}/{n}" for n in ("a/1", "a/2", "ab", "c/d/3")]
        assert fs.glob(f"{fs_path}/*/*") == [f"{fs_path}/a/1", f"{fs_path}/a/2", f"{fs_path}/c/d"]
        assert fs.isdir(f"{fs_path}/c") and fs.isfile(f"{fs_path}/ab") and not fs.exists(f"{fs_path}/a/3")
        fs.mv(f"{fs_path}/ab", f"{fs_path}/e")
        fs.rm(f"{fs_path}/a", recursive=True)
        assert fs.find(fs_path) == [f"{fs_path}/c/d/3", f"{fs_path}/e"]
        with pytest.raises(OSError):
            fs.rmdir(f"{fs_path}/c")

    def test_the_last_of_many_writers_wins(self, fs, fs_path, files_cluster):
        told = []

        def write(number):
            # Servers and processes of their own would share the epoch just so: the token is the job's.
            other = gemel.fsspec.GemelFileSystem(address=files_cluster.sockets[number % 2], persist_every=0,
                                                 timeout_s=30, number=number)
            try:
                other.pipe_file(f"{fs_path}/shared", bytes([number]) * 1000)
            except errors.Error as error:
                told.append(error)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not told, told
        content = fs.cat_file(f"{fs_path}/shared")
        assert len(content) == 1000 and len(set(content)) == 1
        fs.pipe_file(f"{fs_path}/shared", b"last")
        assert fs.cat_file(f"{fs_path}/shared") == b"last"

    def test_torchs_file_writer_finds_it_by_the_url(self, fs, fs_path, files_cluster, monkeypatch):
        monkeypatch.setenv("GEMEL_ADDRESS", files_cluster.sockets[1])
        state = {"w": torch.arange(100_000.0), "n": {"lr": 0.5}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(2):
                dcp.save(state, checkpoint_id=f"gemel://{fs_path}/step-7")
            loaded = {"w": torch.zeros(100_000), "n": {"lr": 0.0}}
            dcp.load(loaded, checkpoint_id=f"gemel://{fs_path}/step-7")
        assert torch.equal(loaded["w"], state["w"]) and loaded["n"] == {"lr": 0.5}
        assert fs.find(fs_path) == [f"{fs_path}/step-7/.metadata", f"{fs_path}/step-7/__0_0.distcp"]

    def test_snapshots_of_a_trainer_are_not_taken_for_files(self, fs, fs_path, files_cluster):
        import gemel.torch as gt

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save({"w": torch.ones(9)}, storage_writer=gt.StorageWriter(
                fs_path, 7, address=files_cluster.sockets[0], persist_every=0))
            with pytest.raises(errors.InvalidArgument, match="no file"):
                fs.open(f"{fs_path}/7")
            fs.pipe_file(f"{fs_path}/f", b"x")  # takes the job over
            with pytest.raises(BaseException, match="superseded"):
                dcp.save({"w": torch.ones(9)}, storage_writer=gt.StorageWriter(
                    fs_path, 8, address=files_cluster.sockets[0], persist_every=0))
        clients.shared(files_cluster.sockets[0], 10).remove_snapshot(fs_path, "7")


def test_the_protocol_is_registered():
    assert fsspec.get_filesystem_class("gemel") is gemel.fsspec.GemelFileSystem
