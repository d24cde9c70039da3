# SPDX-License-Identifier: Apache-2.0
"""What `gemel import` runs for a directory of torch.distributed.checkpoint.

    python3 -m gemel.torch.import_dcp DIR --job JOB --name STEP

Reading such a directory runs code of whoever wrote it (dcp_import.py): import only what you trust.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gemel import clients
from gemel.errors import Error, FailedPrecondition, NotFound
from gemel.torch import dcp_files

TIMEOUT_S = 24 * 3600.0


def _check_job(address: str | None, job: str, takeover: bool) -> None:
    client = clients.connect(clients.own_address(address), clients.CONNECT_TIMEOUT_S)
    try:
        kept = client.list_snapshots(job)
    finally:
        client.close()
    if kept and not takeover:
        raise FailedPrecondition(f"job {job!r} is there already, its newest snapshot is {kept[-1]['name']!r}: a trainer that "
                                 "runs it would lose its epoch and stop; name another with --job, or say --takeover")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m gemel.torch.import_dcp", description="Brings a directory of torch.distributed.checkpoint into the "
        "cluster.", epilog="Reading DIR unpickles DIR/.metadata and its objects, which runs code of whoever wrote them: "
        "import only what you trust.")
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--job", required=True)
    parser.add_argument("--name", required=True, help="the step")
    parser.add_argument("--address", help="socket of this host's server; default GEMEL_ADDRESS")
    parser.add_argument("--copies", type=int, default=2, help="servers that hold each shard")
    parser.add_argument("--strategy", choices=("group", "ring"), default="group", help="how its copies are spread")
    parser.add_argument("--takeover", action="store_true", help="also a job that is there: its trainer loses its epoch")
    parser.add_argument("--verify-only", action="store_true", help="import nothing: check every digest")
    parser.add_argument("--json", action="store_true", help="the result as JSON, no progress")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> dict:
    if options.verify_only:
        content = dcp_files.complete(options.folder)
        dcp_files.verify(options.folder, content)
        return {"job": options.job, "name": options.name, "bytes": sum(f["bytes"] for f in content["files"])}
    if not (options.folder / ".metadata").is_file():
        raise NotFound(f"{options.folder} has no .metadata: it is no complete directory of torch.distributed.checkpoint")
    record = dcp_files.read(options.folder, dcp_files.RECORD)
    if record is not None:  # an export of ours says what every byte was
        dcp_files.verify(options.folder, record)
    _check_job(options.address, options.job, options.takeover)
    from gemel.torch import dcp_import  # with torch, which takes seconds: not for what was refused above
    from gemel.torch.dcp_writer import StorageWriter

    writer = StorageWriter(options.job, options.name, address=options.address, copies=options.copies,
                           strategy=options.strategy, timeout_s=TIMEOUT_S)
    total = dcp_import.import_directory(options.folder, writer, options.json)
    return {"job": options.job, "name": options.name, "bytes": total}


def main(argv: list[str] | None = None) -> int:
    options = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        done = _run(options)
    except Error as error:
        print(f"gemel: {error}", file=sys.stderr)
        return dcp_files.exit_code(error)
    print(json.dumps(done, indent=2) if options.json else
          f"{done['job']}@{done['name']}: {done['bytes']} bytes {'whole' if options.verify_only else 'imported'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
