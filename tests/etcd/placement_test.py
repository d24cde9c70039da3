# SPDX-License-Identifier: Apache-2.0
"""gemel-placement on etcd: a cluster moves there from its folder, and goes on when members of etcd and managers die."""

import subprocess

import cluster as clusters
import pytest

clusters.use_built_package()

from etcd_servers import Etcd  # noqa: E402
from jobs import Job  # noqa: E402

PLACEMENT = str(clusters.BUILD / "bin" / "gemel-placement")


def test_a_cluster_moves_to_etcd_and_outlives_members_of_it_and_managers():
    with Etcd("debian", 3) as etcd, clusters.running() as cluster:
        store = ("--store", etcd.url + "/moved")
        with Job("moved", cluster.sockets) as job:
            job.save(1)
            cluster.kill("placement")
            cluster.restart_placement(store=(*store, "--recover-from-servers"))
            cluster.await_all_alive()
            job.check_kept(1)
        with Job("moved", cluster.sockets) as job:
            job.check(job.restore(), 1)
            job.save(2)
            etcd.leader().kill()
            job.save(3)  # waits for the next leader
            cluster.kill("placement")
            cluster.restart_placement(store=store)
            cluster.await_all_alive()
            job.save(4)
            assert [s["name"] for s in cluster.snapshots("moved") if s["latest"]] == ["4"]
            job.check_kept(4)
        assert "etcd 3.4" in cluster.log("placement") and "go to 3.5.28" in cluster.log("placement")
        kept = etcd.keys("/gemel/moved/")
        assert "/gemel/moved/k/cluster" in kept and "/gemel/moved/k/job/moved" in kept


@pytest.mark.parametrize("flags, words", [
    ([], "give either --dir or --store"),
    (["--dir", "x", "--store", "etcd://127.0.0.1:1"], "give either --dir or --store"),
    (["--store", "127.0.0.1:2379"], "etcd://HOST:PORT"),
    (["--store", "etcd://192.0.2.1:2379"], "--etcd-cacert"),
    (["--store", "etcd://127.0.0.1:1"], "127.0.0.1:1"),
    (["--store", "etcd://127.0.0.1:1", "--etcd-cacert", "/nowhere.pem"], "/nowhere.pem"),
    (["--store", "etcd://127.0.0.1:1", "--etcd-cacert", "/dev/null"], "no PEM"),
    (["--store", "etcd://127.0.0.1:1", "--etcd-cert", "x"], "go together"),
    (["--store", "etcd://127.0.0.1:1", "--etcd-cert", "x", "--etcd-key", "y"], "needs --etcd-cacert"),
])
def test_flags_that_cannot_be_are_refused_with_the_way_out(flags, words):
    done = subprocess.run([PLACEMENT, *flags, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and words in done.stderr
