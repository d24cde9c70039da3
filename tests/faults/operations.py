# SPDX-License-Identifier: Apache-2.0
"""What is done under a fault, each with its own limits. An operation begins the fault itself, at its own moment."""

import time

from cluster import until
from faults import RANKS, VICTIM, WITH_VERDICT
from hosts import PLACEMENT

RESUME_S = 2.0  # from the verdict to a commit
GRACE_S = 2.0  # that a restarted manager gives its members to join again
REPAIR_S = 10.0
READ_S = 8.0

# Cells that fail for a reason that is known and open; each is done all the same, and told as what it is.
KNOWN = {("failover", "full disk"): "a server that cannot write its identity refuses copies of a new epoch, and the save "
                                    "waits for it instead of going to another server"}
# Operations that there are none of yet.
PENDING = {"drain": "`gemel drain` does not exist yet", "upgrade": "there is one protocol version yet"}


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


OPERATIONS = {"save": save, "restore": restore, "commit": commit, "join": join, "repair": repair, "failover": failover,
              "server restart": restart}
