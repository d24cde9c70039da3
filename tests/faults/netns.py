# SPDX-License-Identifier: Apache-2.0
"""A network of our own to cut: a namespace with only its loopback, and packet filter rules by process and direction.

Every daemon runs under a group of its own, by which nftables knows the packets that it sends; its connections carry its
mark, by which the filter knows what is sent to it. So a link is cut one way or both ways with ports and addresses as
they are, and what the clients do over unix sockets is not touched.
"""

import os
import shutil
import subprocess
import sys

_INSIDE = "GEMEL_OWN_NETWORK"
GROUP_FIRST = 7000


class NotPermitted(Exception):
    """This machine does not let us; the sentence says what and why."""


def enter(argv):
    """Starts this program again in a network namespace of its own; returns when it is in one."""
    if os.environ.get(_INSIDE) == "1":
        return
    for tool in ("nft", "unshare", "ip"):
        if shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            raise NotPermitted(f"cutting links needs `{tool}` (packages nftables, util-linux, iproute2)")
    tried = subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    if tried.returncode != 0:
        raise NotPermitted(f"cutting links needs the right to make a network namespace: {tried.stderr.strip()}")
    os.environ[_INSIDE] = "1"
    up = 'ip link set lo up && exec "$@"'
    os.execvp("unshare", ["unshare", "-n", "sh", "-c", up, "sh", sys.executable, *argv])


def _nft(rules):
    done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True)
    if done.returncode != 0:
        raise NotPermitted(f"nftables refuses its rules: {done.stderr.strip()}")


class Filter:
    """The rules of one namespace, instead of those it had. ``names``: the daemons, in the order of their groups."""

    def __init__(self, names):
        self.groups = {name: GROUP_FIRST + i for i, name in enumerate(names)}
        self._bits = {name: 1 << i for i, name in enumerate(names)}
        marks = "\n".join(f"meta skgid {self.groups[n]} ct mark set ct mark or {self._bits[n]}" for n in names)
        _nft(f"""table inet gemel
        delete table inet gemel
        table inet gemel {{
          chain cuts {{ }}
          chain out {{ type filter hook output priority 0; policy accept;
            {marks}
            jump cuts
          }}
        }}""")

    def cut(self, name, sends=True, hears=True, port=None):
        """Loses what ``name`` sends, or what is sent to it (``port``: where it listens), or both."""
        group, bit = self.groups[name], self._bits[name]
        rules = []
        if sends:
            rules.append(f"add rule inet gemel cuts meta skgid {group} drop")
        if hears:
            rules.append(f"add rule inet gemel cuts meta skgid != {group} ct mark and {bit} == {bit} drop")
            if port:
                rules.append(f"add rule inet gemel cuts meta skgid != {group} tcp dport {port} drop")
        _nft("\n".join(rules))

    def heal(self):
        _nft("flush chain inet gemel cuts")
