# SPDX-License-Identifier: Apache-2.0
"""What `gemel export --format dcp` runs: a snapshot as a directory of torch.distributed.checkpoint.

    python3 -m gemel.torch.export JOB[@STEP] DIR
"""

from __future__ import annotations

import argparse
import errno
import json
import sys
from pathlib import Path

from gemel import clients
from gemel.errors import Error
from gemel.torch import dcp_files

TIMEOUT_S = 24 * 3600.0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m gemel.torch.export", description="Writes a snapshot as a directory of torch.distributed.checkpoint.",
        epilog="dcp.load(state_dict, storage_reader=FileSystemReader(DIR)) reads it; that unpickles DIR/.metadata, as torch "
               "does with every such directory.")
    parser.add_argument("what", metavar="JOB[@STEP]")
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--address", help="socket of this host's server; default GEMEL_ADDRESS")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--verify-only", action="store_true", help="write nothing: check the export that is there")
    parser.add_argument("--json", action="store_true", help="the result as JSON, no progress")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> dict:
    job, _, name = options.what.partition("@")
    if options.verify_only:
        content = dcp_files.complete(options.folder)
        dcp_files.verify(options.folder, content)
        return content
    from gemel.torch import dcp_export  # with torch, which takes seconds: not for a verification

    client = clients.connect(clients.own_address(options.address), clients.CONNECT_TIMEOUT_S)
    try:
        record = client.begin_read(job, name or None, TIMEOUT_S)
        snapshot = dcp_files.facts(record, client.cluster_id, job)
        return dcp_export.export(record, snapshot, options.folder, options.force, options.json)
    finally:
        client.close()


def main(argv: list[str] | None = None) -> int:
    options = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        content = _run(options)
    except Error as error:
        print(f"gemel: {error}", file=sys.stderr)
        return dcp_files.exit_code(error)
    except OSError as error:
        print(f"gemel: {error}; what is whole is kept, run it again when that is mended", file=sys.stderr)
        return dcp_files.NO_SPACE_EXIT if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1
    if options.json:
        print(json.dumps(content, indent=2))
    else:
        print(f"{dcp_files.named(content['snapshot'])}: {len(content['files'])} files in {options.folder}, whole")
    return 0


if __name__ == "__main__":
    sys.exit(main())
