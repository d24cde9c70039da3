# SPDX-License-Identifier: Apache-2.0
"""Two S3 servers as real processes (SeaweedFS checks signatures, moto is another implementation), and a proxy that
spoils what goes through it. Each on a free loopback port, ended by its process; an independent client (boto3) looks.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import boto3
from botocore.client import Config

BIN = Path(sys.prefix, "bin")
ACCESS_KEY, SECRET_KEY = "AKIAGEMEL", "se/cret+key=1"  # a secret with what must be escaped nowhere
START_TIMEOUT_S = 60.0
_PR_SET_PDEATHSIG = 1


def free_ports(count):
    """Different ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _end_with_parent():
    # So that nothing stays when the tests are killed, which leaves no time for close().
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """A process that answers S3 on ``self.port``; started by ``start``, also again after ``kill``."""

    name = ""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix=f"gemel-{self.name}-")
        self.process = None
        self.port = 0

    def start(self):
        log = open(Path(self.dir, "log"), "ab")
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir,
                                        start_new_session=True, env={**os.environ, "HOME": self.dir},
                                        preexec_fn=_end_with_parent)
        log.close()
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self.process.poll() is None, Path(self.dir, "log").read_text(errors="replace")[-2000:]
            try:
                self.client().list_buckets()
                return self
            except Exception as error:  # whatever an S3 client says of a server that is not there yet
                assert time.monotonic() < end, f"{self.name} does not answer: {error}"
                time.sleep(0.1)

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait(30)

    def close(self):
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_):
        self.close()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def client(self):
        return boto3.client("s3", endpoint_url=self.endpoint, aws_access_key_id=ACCESS_KEY,
                            aws_secret_access_key=SECRET_KEY, region_name="us-east-1",
                            config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=20,
                                          s3={"addressing_style": "path"}))

    def url(self, bucket, prefix="", endpoint=None):
        return f"s3://{bucket}/{prefix}?endpoint={endpoint or self.endpoint}&region=us-east-1"

    def new_bucket(self, name):
        self.client().create_bucket(Bucket=name)
        return name

    def keys(self, bucket, prefix=""):
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {o["Key"]: o["Size"] for page in pages for o in page.get("Contents", [])}

    def read(self, bucket, key):
        return self.client().get_object(Bucket=bucket, Key=key)["Body"].read()

    def uploads(self, bucket):
        """Multipart uploads that were begun and neither completed nor aborted."""
        return self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])


class Seaweed(Server):
    name = "seaweed"

    def __init__(self):
        super().__init__()
        ports = free_ports(9)
        self.port = ports[0]
        self.ports = ports
        Path(self.dir, "s3.json").write_text(json.dumps({"identities": [{
            "name": "gemel", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}))
        Path(self.dir, "data").mkdir()

    def command(self):
        p = self.ports
        return [str(BIN / "weed"), "server", f"-dir={self.dir}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3",
                f"-s3.port={p[0]}", f"-s3.port.grpc={p[1]}", f"-s3.config={self.dir}/s3.json", "-s3.port.iceberg=0", f"-s3.port.lance={p[8]}",
                f"-master.port={p[2]}", f"-master.port.grpc={p[3]}", f"-filer.port={p[4]}", f"-filer.port.grpc={p[5]}",
                f"-volume.port={p[6]}", f"-volume.port.grpc={p[7]}", "-volume.max=400", "-master.volumeSizeLimitMB=64",
                "-master.telemetry=false"]


class Moto(Server):
    name = "moto"

    def __init__(self):
        super().__init__()
        self.port = free_ports(1)[0]

    def command(self):
        return [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(self.port)]


class SpoilingProxy:
    """Passes connections on to ``port``; ``spoil(method, path)`` may name what happens to a request instead.

    None passes it on, an integer is answered as that status, "cut" closes the connection in the middle.
    One request a connection: each answer says that the connection ends.
    """

    def __init__(self, port, spoil):
        self.target, self.spoil = port, spoil
        self.requests = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            try:
                self._one(connection)
            except OSError:
                pass  # either side went away: that is what this proxy is for

    def _one(self, connection):
        head = b""
        while b"\r\n\r\n" not in head:
            more = connection.recv(65536)
            if not more:
                return
            head += more
        line, _, rest = head.partition(b"\r\n")
        method, path, _ = line.decode().split(" ")
        self.requests.append((method, path))
        verdict = self.spoil(method, path)
        head_only, _, body = rest.partition(b"\r\n\r\n")
        length = next((int(h.split(b":")[1]) for h in head_only.split(b"\r\n")
                       if h.lower().startswith(b"content-length:")), 0)
        if verdict == "cut":
            self._drain(connection, (length - len(body)) // 2)
            return
        if verdict is not None:
            self._drain(connection, length - len(body))
            text = b"<Error><Code>SlowDown</Code><Message>spoiled</Message></Error>"
            connection.sendall(b"HTTP/1.1 %d Spoiled\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                               % (verdict, len(text), b"" if method == "HEAD" else text))
            return
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            server.sendall(line + b"\r\nConnection: close\r\n" + head_only + b"\r\n\r\n" + body)
            self._pass(connection, server, length - len(body))
            while data := server.recv(1 << 20):
                connection.sendall(data)

    @staticmethod
    def _drain(connection, left):
        while left > 0:
            left -= len(connection.recv(min(left, 1 << 20)) or b" " * left)

    @staticmethod
    def _pass(source, target, left):
        while left > 0:
            data = source.recv(min(left, 1 << 20))
            if not data:
                return
            target.sendall(data)
            left -= len(data)
