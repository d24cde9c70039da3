# SPDX-License-Identifier: Apache-2.0
"""Tickets: one token for an incarnation, attempts that rise, and the newest one counts."""

import os
import pickle

from gemel.torch import dcp_ticket


def issue(job="j", name="n", world=2, committed=0):
    return dcp_ticket.issue(job, name, dcp_ticket.seed(), world, committed)


def test_attempts_rise_also_within_one_tick_and_above_what_is_committed():
    attempts = [issue()[0].attempt for _ in range(50)]
    assert attempts == sorted(set(attempts))
    assert issue(committed=attempts[-1] + 1000)[0].attempt > attempts[-1] + 1000


def test_a_ticket_that_arrives_is_the_newest_of_its_name_once():
    old, new, other = issue()[1], issue()[1], issue(name="m")[1]
    pickle.loads(pickle.dumps(old)), pickle.loads(pickle.dumps(new)), pickle.loads(pickle.dumps(other))
    assert dcp_ticket.take("j", "n") == new
    assert dcp_ticket.take("j", "n") is None
    assert dcp_ticket.take("j", "m") == other


def test_tickets_that_nobody_took_are_bounded():
    for step in range(200):
        pickle.loads(pickle.dumps(issue(name=str(step))[0]))
    assert len(dcp_ticket._newest) <= dcp_ticket._WAITING_MAX
    assert dcp_ticket.take("j", "0") is None and dcp_ticket.take("j", "199") is not None


def test_ranks_share_the_token_of_the_coordinator_that_they_heard():
    ticket = dcp_ticket.issue("shared", "1", b"x" * 32, 2, 0)[1]  # of another process
    assert ticket.token != dcp_ticket.token_of("shared", dcp_ticket.seed())
    pickle.loads(pickle.dumps(ticket))
    assert dcp_ticket.token_of("shared", dcp_ticket.seed()) == ticket.token
    assert dcp_ticket.token_of("unheard", dcp_ticket.seed()) != ticket.token


def test_a_forked_child_is_another_incarnation():
    mine = dcp_ticket.token_of("forked", dcp_ticket.seed())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, dcp_ticket.token_of("forked", dcp_ticket.seed()))
        os._exit(0)
    os.waitpid(child, 0)
    assert len(mine) == 16 and os.read(read, 16) != mine
