# SPDX-License-Identifier: Apache-2.0
"""One rank of a job without torch: restores, then saves step after step until it is ended.

Says each phase in one JSON line on standard output, as it begins. Exit codes: 0 all steps are committed, 3 restored
bytes are not what was saved, 4 an error of Gemel, 5 refused because the epoch was superseded.
"""

import argparse
import json
import os
import sys
from collections import deque

import jobs
from gemel import _native, errors

TORN, FAILED, SUPERSEDED = 3, 4, 5
# The next save may succeed. NotFound: how one ended is not known any more, for many came after it.
PASSING = (errors.Unavailable, errors.DeadlineExceeded, errors.Aborted, errors.NotFound)


def tell(event, **fields):
    # One write a line: a reader sees all of it or nothing, whenever this process is killed.
    os.write(1, (json.dumps({"event": event, **fields}) + "\n").encode())


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", required=True)
    parser.add_argument("--token", required=True, help="32 hexadecimal digits, equal on all ranks")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--world", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--bytes", type=int, default=4 << 20)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--timeout-s", type=float, default=30.0)
    parser.add_argument("--in-flight", type=int, default=2, help="saves whose commit is not told yet")
    parser.add_argument("--stubborn", action="store_true", help="goes on with the next step when a save fails in passing")
    return parser.parse_args()


class Rank:
    def __init__(self, args):
        self.args = args
        self.client = _native.Client(args.address, args.timeout_s)
        self.epoch = tuple(self.client.acquire_epoch(args.job, bytes.fromhex(args.token)))
        tell("epoch", epoch=self.epoch)

    def restore(self):
        """The step that was restored; 0 when there was none."""
        args = self.args
        while True:
            tell("restoring")
            record = self.client.begin_restore(args.job, self.epoch, args.rank, args.world, args.timeout_s)
            if record is None:
                tell("restored", step=0, sequence=0)
                return 0
            tell("chosen", step=int(record.name), sequence=record.sequence)
            why = self.check(record)
            record.report(not why, why)
            outcome = record.wait(args.timeout_s)
            if outcome["outcome"] == "VERIFIED":
                tell("restored", step=int(record.name), sequence=record.sequence, epoch=record.epoch,
                     phases=outcome["phases"], sources=outcome["sources"])
                return int(record.name)
            tell("moved", step=int(record.name), sequence=record.sequence, lost=outcome["lost"], why=why)

    def check(self, record):
        """Why shards cannot be read, or nothing. Ends the process when one is torn."""
        for shard in sorted(record.shards, key=lambda s: s["rank"]):
            try:
                found = record.read(shard["rank"], 0, shard["bytes"])
            except (errors.DataLoss, errors.Unavailable) as error:
                return str(error)
            wanted = jobs.content(self.args.job, record.epoch, record.name, shard["rank"], shard["bytes"])
            if bytes(found) != wanted:
                tell("torn", step=record.name, sequence=record.sequence, shard=shard["rank"])
                sys.exit(TORN)
        return ""

    def save(self, step, attempt):
        args = self.args
        tell("opening", step=step)
        writer = self.client.open_snapshot(
            job=args.job, epoch=self.epoch, name=str(step), attempt=attempt, rank=args.rank,
            world_size=args.world, shard_bytes=args.bytes, layout_bytes=jobs.LAYOUT_BYTES,
            layout_hash=jobs.layout_hash(args.job), copies=2, min_copies=2, keep_latest=1, on_busy="wait",
            timeout_s=args.timeout_s)
        data = jobs.content(args.job, self.epoch, step, args.rank, args.bytes)
        tell("filling", step=step)
        for start in range(0, len(data), 1 << 20):
            writer.write(start, data[start:start + (1 << 20)])
        tell("sealing", step=step)
        writer.seal()
        return writer

    def run(self):
        first = self.restore()
        pending = deque()
        for number in range(1, self.args.steps + 1):
            step = first + number
            try:
                pending.append((step, self.save(step, number)))
                if len(pending) >= self.args.in_flight:  # the commit of a step overlaps the save of the next
                    self.settle(*pending.popleft())
            except PASSING as error:
                if not self.args.stubborn:
                    raise
                tell("refused", step=step, code=type(error).__name__, why=str(error))
        while pending:
            self.settle(*pending.popleft())

    def settle(self, step, writer):
        tell("awaiting", step=step)
        result = writer.wait(self.args.timeout_s)
        tell("committed", step=step, sequence=result["sequence"], redundancy=result["redundancy"])


def main():
    try:
        Rank(parse_args()).run()
    except errors.Error as error:
        tell("failed", code=type(error).__name__, why=str(error))
        superseded = isinstance(error, errors.FailedPrecondition) and "superseded" in str(error)
        return SUPERSEDED if superseded else FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
