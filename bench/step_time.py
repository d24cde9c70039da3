#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time that one save takes from a training loop, beside the best mode of torch's dcp.async_save.

    bench/step_time.py [--mib 384] [--turns 5]

Two gloo ranks train one model with FSDP2 and AdamW. In turn: steps without a save; one gemel save; one
dcp.async_save in a thread with asynchronous staging into reused shared memory (the fastest of its modes on CPU), to
tmpfs; its staging overlaps the step and ends before the update. Each turn runs on until the save is committed on all
ranks (DCP: its future is done), then
lost = blocked + (time of these steps - as many median steps without a save): nothing hides in the background.
"""

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path

import measured
from measured import Report
from training import RANKS, Loop, leave, lost_ms, run_ranks


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=384, help="state: parameters and both moments")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


class GemelMode:
    def __init__(self, loop):
        import gemel.torch as gt

        self.loop, self.step = loop, 0
        self.checkpointer = gt.Checkpointer("bench", timeout_s=60)

    def save(self):
        self.step += 1
        stats = self.checkpointer.save(self.step, model=self.loop.model, optimizer=self.loop.optimizer)
        return lambda: stats.commit_ms is not None

    def close(self):
        self.checkpointer.close()


class DcpMode:
    def __init__(self, loop, folder):
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        self.loop, self.folder, self.dcp = loop, Path(folder), dcp
        # pinned memory and non-blocking copies need an accelerator
        self.stager = DefaultStager(StagingOptions(False, True, True, False))
        # its thread's collectives must not meet those of the training
        self.group = loop.dist.new_group(backend="gloo")

    def save(self):
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizer = get_state_dict(self.loop.model, self.loop.optimizer)
        writer = self.dcp.FileSystemWriter(str(self.folder / "checkpoint"), sync_files=False, overwrite=True)
        saving = self.dcp.async_save({"model": model, "optimizer": optimizer}, storage_writer=writer,
                                     async_stager=self.stager, process_group=self.group)
        if not hasattr(saving, "staging_completion"):
            return saving.done
        self.loop.before_update = saving.staging_completion.result
        return saving.upload_completion.done

    def close(self):
        self.stager.close()


def worker(args):
    import torch.distributed as dist

    facts = json.loads(args.worker)
    dist.init_process_group("gloo")
    loop = Loop(args.mib)
    for _ in range(3):
        loop.step()
    modes = {"gemel": GemelMode(loop), "dcp": DcpMode(loop, facts["folder"])}
    first = {name: loop.turn(mode.save) for name, mode in modes.items()}
    result = {"none": [], "gemel": [], "dcp": [], "state_bytes": loop.state_bytes, "first": first}
    for _ in range(args.turns):
        result["none"].append(loop.turn(lambda: lambda: True))
        for name, mode in modes.items():
            result[name].append(loop.turn(mode.save))
            for _ in range(2):
                loop.step()
    for mode in modes.values():
        mode.close()
    if dist.get_rank() == 0:
        Path(facts["out"]).write_text(json.dumps(result))
    leave(dist)


def report_of(result, args):
    report = Report("step_time")
    base_steps = [s for _, steps in result["none"] for s in steps]
    base = measured.spread(base_steps)["median"]

    def lost(turns):
        return lost_ms(turns, [base] * len(turns))

    report.fact("state", round(result["state_bytes"] / (1 << 20)), f"MiB on {RANKS} ranks, FSDP2, AdamW, gloo")
    report.row("step without a save", [s * 1e3 for s in base_steps], "ms")
    report.row("noise: the same sum without a save", lost(result["none"]), "ms")
    for name, title in (("gemel", "gemel"), ("dcp", "dcp.async_save")):
        turns = result[name]
        report.row(f"{title}: blocked", [1e3 * blocked for blocked, _ in turns], "ms")
        report.row(f"{title}: lost in all", lost(turns), "ms")
        report.row(f"{title}: until kept", [1e3 * (b + sum(s)) for b, s in turns], "ms, rounded up to a step")
        report.fact(f"{title}: first save, lost in all", lost([result["first"][name]])[0], "ms")
    ratio = measured.spread(lost(result["gemel"]))["median"] / measured.spread(lost(result["dcp"]))["median"]
    report.target("lost, gemel / dcp", ratio, ratio <= 1.0, "<= 1: no more than dcp's best")
    return report.finish()


def main(args):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    made = measured.cluster.Cluster(servers=3, memory=f"{2 * args.mib + 512}MiB", slab_bytes="64MiB")
    folder = measured.memory_folder()
    try:
        made.up()
        return report_of(run_ranks(__file__, ["--mib", str(args.mib), "--turns", str(args.turns)],
                                  made.sockets[:RANKS], folder), args)
    finally:
        made.wipe()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    options = parse_args()
    if options.worker:
        worker(options)
    timer = measured.end_after(175)
    code = main(options)
    timer.cancel()
    sys.exit(code)
