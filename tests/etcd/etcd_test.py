# SPDX-License-Identifier: Apache-2.0
"""EtcdStore against real etcd: the conformance suite of MetaStore, and what etcd does when it is killed, paused, full,
restored from a backup or replaced. The program under test is etcd_store_test; it says what it wants done.
"""

import re
import subprocess
import time
from pathlib import Path

import pytest

import etcd_servers
import programs
from etcd_servers import Etcd

RELEASES = ("debian", "distro")


@pytest.fixture(scope="module", params=[(r, n) for r in RELEASES for n in (1, 3)], ids=lambda p: f"{p[0]}-{p[1]}")
def shared(request):
    """One etcd for the tests that leave it as it is: each takes its own names."""
    release, count = request.param
    with Etcd(release, count) as made:
        yield made


def _both(quick):
    """Both releases; in the quick run the one named, because each test takes some seconds."""
    return [pytest.param(r, marks=() if r == quick else pytest.mark.long) for r in RELEASES]


@pytest.fixture(params=_both("distro"))
def one(request):
    """One member, for one test, which may do anything to it."""
    with Etcd(request.param, 1) as made:
        yield made


@pytest.fixture(params=_both("debian"))
def three(request):
    with Etcd(request.param, 3) as made:
        yield made


def test_conforms_as_every_meta_store(shared):
    out = programs.run(shared, "Etcd/*:EtcdOpen.*")
    passed = int(re.search(r"\[  PASSED  \] (\d+) tests", out).group(1))
    assert passed >= 50
    assert re.search(r"VERSION 3\.[45]\.", out)


def test_a_list_is_of_one_moment_while_etcd_is_written_and_compacted_under_it(one):
    out = programs.run(one, "EtcdList.*", {"compact": one.compact})
    assert int(re.search(r"COMPACTED (\d+) times", out).group(1)) > 0


def test_the_leader_killed_in_a_stream_of_transactions_loses_nothing_acknowledged(three):
    faults = programs.Later(lambda: (time.sleep(2), three.leader().kill()))
    out = programs.run(three, "EtcdStream.*", {"started": faults.start, "mended": faults.end}, seconds=7)
    _went_on(out, gap_ms_max=6000)


def test_the_leader_paused_in_a_stream_of_transactions_loses_nothing_acknowledged(three):
    def pause():
        time.sleep(2)
        leader = three.leader()
        leader.pause()
        time.sleep(4)
        leader.resume()

    faults = programs.Later(pause)
    out = programs.run(three, "EtcdStream.*", {"started": faults.start, "mended": faults.end}, seconds=8)
    _went_on(out, gap_ms_max=6000)


def test_each_member_killed_and_restarted_in_turn_loses_nothing_acknowledged(three):
    def rolling():
        for member in three.members:
            time.sleep(1)
            member.kill()
            time.sleep(0.5)
            member.start()
            three.wait_healthy([member])

    faults = programs.Later(rolling)
    out = programs.run(three, "EtcdStream.*", {"started": faults.start, "mended": faults.end}, seconds=12)
    _went_on(out, gap_ms_max=8000)


def _stream_while_killed(etcd, pause_s):
    def loop():
        for _ in range(3):
            time.sleep(pause_s)
            etcd.members[0].kill()
            etcd.members[0].start()
            etcd.wait_healthy()

    faults = programs.Later(loop)
    return programs.run(etcd, "EtcdStream.*", {"started": faults.start, "mended": faults.end}, seconds=10)


def test_one_member_killed_again_and_again_and_restarted_on_its_disk_loses_nothing_acknowledged():
    with Etcd("debian", 1) as one:
        _went_on(_stream_while_killed(one, 1), gap_ms_max=8000)


@pytest.mark.long
def test_what_a_killed_etcd_loses_that_is_known_to_lose_is_noticed():
    # etcd 3.5.0 to 3.5.2 (issue 13766): about one run in twenty loses what it acknowledged, for good.
    lost = 0
    for _ in range(10):
        with Etcd("distro", 1) as one:
            try:
                _stream_while_killed(one, 0.3)
            except AssertionError as failed:
                assert "or has lost what it acknowledged" in str(failed)
                lost += 1
    print(f"{lost} of 10 lost something")


def _went_on(out, gap_ms_max):
    streams = re.findall(r"STREAM applied (\d+) unknown (\d+) found (\d+) unavailable (\d+) gap_ms (\d+)", out)
    assert len(streams) == 2, out[-2000:]
    print("\n".join(" ".join(stream) for stream in streams))
    for applied, _, _, _, gap_ms in streams:
        assert int(applied) > 100
        assert int(gap_ms) < gap_ms_max
    assert any(int(unknown) + int(unavailable) > 0 for _, unknown, _, unavailable, _ in streams), "nothing happened"


@pytest.mark.parametrize("release", RELEASES)
def test_full_it_refuses_truly_and_space_brings_it_back(release):
    with Etcd(release, 1, flags=["--quota-backend-bytes", str(16 << 20)]) as etcd:
        programs.run(etcd, "EtcdFull.*", {"space": etcd.give_space})


def test_a_restored_backup_is_refused_by_who_has_seen_more(one):
    saved = []
    programs.run(one, "EtcdBackup.OneThat*", {"backup": lambda: saved.append(one.backup()),
                                              "restore": lambda: one.restore(saved[0])})


def test_keys_that_a_person_deleted_are_noticed(one):
    programs.run(one, "EtcdBackup.KeysThat*", {"delete": lambda prefix: one.ctl("del", "--prefix", prefix)})


def test_another_etcd_at_the_same_address_is_refused_and_not_written(one):
    programs.run(one, "EtcdForeign.*", {"another": one.replace})
    assert one.keys("/gemel/") == []


def test_a_paused_member_makes_outcomes_unknown_in_bounded_time(one):
    programs.run(one, "EtcdGone.APaused*", {"pause": one.members[0].pause, "resume": one.members[0].resume})


def test_closing_ends_calls_to_a_paused_member(one):
    programs.run(one, "EtcdGone.Close*", {"pause": one.members[0].pause, "resume": one.members[0].resume})


def test_a_killed_member_is_unavailable_until_it_is_back(one):
    def restart():
        one.members[0].start()
        one.wait_healthy()

    programs.run(one, "EtcdGone.AKilled*", {"kill": one.members[0].kill, "restart": restart})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and a certificate of 127.0.0.1 that serves members and clients."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    Path(folder, "san").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
            "/CN=gemel test authority", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=gemel", "-keyout",
            "key.pem", "-out", "request.pem")
    openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "san", "-out", "cert.pem")
    return etcd_servers.Tls(str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"))


@pytest.mark.parametrize("release", _both("debian"))
def test_with_tls_both_sides_show_their_certificates(release, certificates):
    with Etcd(release, 1, tls=certificates) as etcd:
        programs.run(etcd, "EtcdOpen.TwoNames*:Etcd/*.PutsAKey*", tls=certificates)
        without = programs.start(etcd, "EtcdOpen.TwoNames*", ["--hasty"])
        out, _ = without.communicate(timeout=120)
        assert without.returncode != 0 and "does not answer" in out


@pytest.mark.long
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("count", (1, 3))
def test_how_long_a_transaction_takes(release, count):
    with Etcd(release, count) as etcd:
        out = programs.run(etcd, "EtcdBench.*")
    print(f"\n{release}, {count} members")
    print("\n".join(line for line in out.splitlines() if line.startswith("BENCH")))
