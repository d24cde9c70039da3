# SPDX-License-Identifier: Apache-2.0
"""What is done under a fault, each with its own limits. An operation begins the fault itself, at its own moment."""

import json
import signal
import time

from cluster import until
from faults import COMMAND_S, RANKS, VICTIM, WITH_VERDICT, Shape
from hosts import PLACEMENT

RESUME_S = 2.0  # from the verdict to a commit
GRACE_S = 2.0  # that a restarted manager gives its members to join again
REPAIR_S = 10.0
READ_S = 8.0
DRAIN_S = 10.0
UPGRADE_S = 8.0  # an orderly end of a server takes up to 5 s
ELECTED_S = 2.0  # from the end of the leader to the next one
DEPOSED_S = 5.0  # from its waking until the former leader says that it leads no more
DRAINED, REST = "server-1", ("server-2", "server-3")
REFUSED = 5


def _since(at):
    return time.time() - at


def _say(at, limit_s, what):
    took = _since(at)
    assert took <= limit_s, f"{what} took {took:.2f} s, the limit is {limit_s:.1f} s"
    return f"pass {took:.2f} s"


def save(made, fault):
    """A save that begins under the fault commits at most 2 s after the verdict."""
    at = made.begin(fault)
    made.save()
    committed = time.time()
    # A save that needed no verdict came before it.
    verdict = made.verdict(fault, at)
    assert committed <= verdict + RESUME_S, f"committed {committed - verdict:.2f} s after the verdict"
    return f"pass {committed - at:.2f} s"


def restore(made, fault):
    """What is committed is read at once, whatever is known of the victim."""
    at = made.begin(fault)
    assert made.restore() is not None
    return _say(at, READ_S, "the restore")


def commit(made, fault):
    """Shards that are sealed when the fault begins come to their commit."""
    writers = made.begin_save()
    at = made.begin(fault)
    made.commit(writers)
    committed = time.time()
    verdict = made.verdict(fault, at)
    assert committed <= verdict + RESUME_S, f"committed {committed - verdict:.2f} s after the verdict"
    return f"pass {committed - at:.2f} s"


def join(made, fault):
    """The fault meets the victim as it joins; the others save meanwhile."""
    made.hosts.kill(VICTIM)
    made.start(VICTIM, wait=False)
    time.sleep(0.03)
    at = made.begin(fault)
    made.save()
    return _say(at, GRACE_S + RESUME_S, "a save beside the join")


def repair(made, fault):
    """Redundancy comes back: without the victim where it is dead, from its bytes where only its disk is ill."""
    step = made.oracle.told[1]
    at = made.begin(fault)
    if fault in WITH_VERDICT:
        at = made.verdict(fault, at)
    else:
        made.hosts.kill("server-1")
        made.start("server-1")
    until(f"two copies of step {step} again", lambda: made.copies(step) >= 2 and (
        fault not in WITH_VERDICT or made.states().get(VICTIM) == "DEAD"), REPAIR_S)
    told = _say(at, REPAIR_S, "the repair")
    made.check_all(RANKS)
    return told


def failover(made, fault):
    """The manager dies and comes back while the fault lasts; it learns of the victim anew."""
    made.begin(fault)
    made.hosts.kill(PLACEMENT)
    at = time.time()
    made.hosts.start(PLACEMENT)
    made.check_all(RANKS)
    made.save()
    return _say(at, GRACE_S + 2 * RESUME_S, "restore and save after the manager's restart")


def restart(made, fault):
    """The victim is started again while the fault lasts."""
    made.begin(fault)
    made.hosts.kill(VICTIM)
    made.start(VICTIM, wait=False)
    at = time.time()
    made.save()
    return _say(at, GRACE_S + RESUME_S, "a save beside the restart")


def drain(made, fault):
    """A rank's own server is emptied while its job saves and is read; stopped then, it is not missed."""
    at = made.begin(fault)
    draining = made.behind("drain", DRAINED)
    try:
        while draining.poll() is None:
            made.save()
            made.read(RANKS[1])
            assert _since(at) < DRAIN_S, f"after {DRAIN_S:.0f} s `gemel drain` has neither ended nor given up"
    finally:
        draining.kill()
    out, err = draining.communicate(timeout=COMMAND_S)
    assert draining.returncode == 0 and json.loads(out)["state"] == "READY_TO_STOP", (draining.returncode, out, err)
    told = _say(at, DRAIN_S, "the drain")
    # A victim that is called dead only now is repaired.
    until(f"two copies of each shard without {DRAINED}", lambda: (held := made.holders()) and all(
        len(servers - {DRAINED}) >= 2 for servers in held.values()), REPAIR_S)
    made.hosts.kill(DRAINED)
    made.check_all(REST)
    made.save()
    made.start(DRAINED)
    assert made.ask("drain", DRAINED, "--cancel").get("state") == "TAKES_WORK"
    return told


def drain_itself(made, fault):
    """The victim is emptied under its fault: ready to stop, or a refusal that says that it is dead. Nothing waits."""
    at = made.begin(fault)
    said = made.ask("drain", VICTIM)
    told = _say(at, DRAIN_S, "the drain of the victim")
    if said.get("state") == "READY_TO_STOP":
        made.hosts.kill(VICTIM)
    else:
        words = said.get("refused", "")
        honest = said.get("code") == REFUSED and VICTIM in words and ("is dead" in words or "died" in words)
        assert honest and fault in WITH_VERDICT, said
        told = told.replace("pass", "refused")
    made.save()
    made.read(RANKS[0])
    made.check_all(RANKS)
    assert made.ask("drain", VICTIM, "--cancel").get("state") == "TAKES_WORK"
    return told


def _expect_taken_over(made, server, held):
    """That this start of it kept at least what it held, all whole."""
    starts, incarnation = len(made.taken_over(server)), made.incarnation_of(server)

    def check():
        found = made.taken_over(server)[starts:]
        assert len(found) == 1 and found[0][0] >= held and found[0][1] == 0, f"held {held}, (kept, dropped): {found}"
        assert made.incarnation_of(server) != incarnation

    return check


def upgrade(made, fault):
    """A rank's own server ends in order and starts again on what its keeper holds; the same trainers go on."""
    name = RANKS[0]
    came_back = _expect_taken_over(made, name, made.held(name))
    made.begin(fault)
    at = time.time()
    made.hosts.stop(name)
    made.start(name)
    made.read(name)
    made.save_again(UPGRADE_S)
    told = _say(at, UPGRADE_S, "a save after the upgrade")
    came_back()
    made.check_all(RANKS)
    return told


def upgrade_itself(made, fault):
    """The victim's process is replaced under its fault, and what it held is there again; a dead host has no keeper."""
    made.settle((VICTIM, RANKS[0]))  # so that it holds something
    came_back = _expect_taken_over(made, VICTIM, made.held(VICTIM))
    made.restore(RANKS)
    made.begin(fault)
    made.hosts.kill_process(VICTIM)
    made.start(VICTIM, wait=False)
    at = time.time()
    made.save()
    if fault != "kill":
        made.afterwards.append(came_back)
    return _say(at, GRACE_S + RESUME_S, "a save beside the upgrade")


def _fail_over(made, fault, number):
    """The leading one of three placements is gone: a sealed save commits, all is restored, another save commits."""
    was, term = made.leader()
    writers = made.begin_save()
    made.begin(fault)
    at = time.time()
    made.away = was
    made.hosts.kill(was) if number == signal.SIGKILL else made.hosts.signal(was, number)
    made.commit(writers)
    made.check_all(RANKS)
    made.save()
    told = _say(at, ELECTED_S + GRACE_S + 2 * RESUME_S, "commit, restore and save after the end of the leader")
    leads, elected = made.elected_after(at)
    assert elected - at <= ELECTED_S, f"{leads} was elected {elected - at:.2f} s after the end of {was}"
    assert made.leader()[1] > term, f"{made.leader()} leads, {was} led in term {term}"
    return was, told


def leader_killed(made, fault):
    was, told = _fail_over(made, fault, signal.SIGKILL)
    made.start(was)
    made.away = ""
    return told


def leader_paused(made, fault):
    """It wakes after the others went on, and changes nothing."""
    was, told = _fail_over(made, fault, signal.SIGSTOP)
    now = made.leader()
    woken = time.time()
    made.hosts.signal(was, signal.SIGCONT)
    assert made.said[was].wait("deposed", was, woken, DEPOSED_S), f"{was} never said that it leads no more"
    made.away = ""
    made.save()
    assert made.leader() == now, f"{now} led before {was} woke, then {made.leader()}"
    return told


OPERATIONS = {"save": save, "restore": restore, "commit": commit, "join": join, "repair": repair, "failover": failover,
              "server restart": restart, "upgrade": upgrade, "upgrade itself": upgrade_itself, "drain": drain,
              "drain itself": drain_itself, "leader killed": leader_killed, "leader paused": leader_paused}
# A drain leaves three servers, of which the fault takes one; the others' ground is one manager and three servers.
SHAPES = {"drain": Shape(servers=4), "drain itself": Shape(servers=4), "leader killed": Shape(managers=3),
          "leader paused": Shape(managers=3)}
