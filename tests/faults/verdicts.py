# SPDX-License-Identifier: Apache-2.0
"""What placement says of its members and of itself, read from its log as it is written."""

import datetime
import re
import time

_LINE = re.compile(r"^\[([\d-]+ [\d:.]+)\] \[placement\] \[\w+\] (\w+): (?:server|placement) ([\w-]+)[ ,]")


class Verdicts:
    """Follows one log. Times are those of the log: wall clock, in milliseconds."""

    def __init__(self, path):
        self._path, self._at, self._rest = path, 0, ""
        self.seen = []  # (time, event, server or placement, line)

    def read(self):
        with open(self._path, encoding="utf-8", errors="replace") as file:
            file.seek(self._at)
            text = self._rest + file.read()
            self._at = file.tell()
        *lines, self._rest = text.split("\n")
        for line in lines:
            if match := _LINE.match(line):
                at = datetime.datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S.%f").timestamp()
                self.seen.append((at, match[2], match[3], line))
        return self.seen

    def of(self, event, name=None, since=0.0):
        return [seen for seen in self.read() if seen[1] == event and name in (None, seen[2]) and seen[0] >= since]

    def wait(self, event, name, since, timeout_s):
        """When placement said it, or None."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            # The log's clock is cut to milliseconds.
            if found := self.of(event, name, since - 0.001):
                return found[0][0]
            time.sleep(0.002)
        return None
