# SPDX-License-Identifier: Apache-2.0
"""A trainer with two data loading workers: workers_beside.py fork|spawn ADDRESS...

The workers are started between opening and sealing, live through two saves and end last.
"""

import multiprocessing
import sys

import jobs


def batch(number):
    return number * number


def main(method, addresses):
    with jobs.Job(f"workers-{method}", addresses, 1) as job:
        job.save(1)
        with multiprocessing.get_context(method).Pool(2) as pool:
            writers = job.start_save(2)
            assert pool.map(batch, range(64)) == [n * n for n in range(64)]
            job.commit(writers)
            job.save(3)
            assert pool.map(batch, range(8))[-1] == 49
            job.check_kept(3)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
