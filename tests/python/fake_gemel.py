#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The command line of gemel as far as the main job uses it: processes that only sleep, and the file store."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def main() -> None:
    command, folder = sys.argv[1], Path(sys.argv[sys.argv.index("--dir") + 1])
    state = folder / "fake.json"
    if command == "up":
        sleepers = [subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL).pid for _ in range(7)]
        servers = [{"id": str(i), "name": f"server-{i}", "pid": pid, "socket": str(folder / "store"),
                    "keeper": {"pid": keeper}}
                   for i, (pid, keeper) in enumerate(zip(sleepers[1:4], sleepers[4:], strict=True))]
        facts = {"cluster": "fake", "placement": "127.0.0.1:1", "pids": {"placement": sleepers[0], "servers": servers}}
        state.write_text(json.dumps(facts))
        print(json.dumps(facts))
        return
    facts = json.loads(state.read_text())
    servers = facts["pids"]["servers"]
    if command == "status":
        print(json.dumps({"map_version": 1, "servers": [
            {"name": s["name"], "state": "ALIVE" if alive(s["pid"]) else "DEAD"} for s in servers]}))
    elif command == "jobs":
        kept = json.loads((folder / "store" / "quickstart" / "state.json").read_text())["opens"]
        names = [snapshot["name"] for snapshot in kept if snapshot["committed"]]
        print(json.dumps({"jobs": [{"job": "quickstart", "persisted": names[-1] if names else ""}]}))
    elif command == "down":
        for pid in [facts["pids"]["placement"], *(p for s in servers for p in (s["pid"], s["keeper"]["pid"]))]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
