# SPDX-License-Identifier: Apache-2.0
"""One rank that only acquires its epoch: epoch_worker.py STORE OUT. Writes it to OUT.<rank>."""

import json
import os
import sys
from pathlib import Path

import conftest  # noqa: F401
import file_store
import torch.distributed as dist

import gemel.torch.checkpointer as checkpointer

checkpointer.connect = file_store.Client


def main() -> None:
    store, out = sys.argv[1:]
    rank = int(os.environ["RANK"])
    # What two agents of one launch say when one of them has restarted its workers.
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(rank)
    dist.init_process_group("gloo")
    ckpt = checkpointer.Checkpointer("job", store, timeout_s=20)
    Path(f"{out}.{rank}").write_text(json.dumps(ckpt.epoch))
    ckpt.close()
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    main()
