# SPDX-License-Identifier: Apache-2.0
"""Exports to two real S3 servers: signatures, multipart, what passes is tried again, what does not is named."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import boto3
import pytest
import tensors
from cluster import GEMEL, Cluster, environment, gemel, running
from export_test import check_tensors
from s3_servers import ACCESS_KEY, SECRET_KEY, Moto, Seaweed, SpoilingProxy

NOT_FOUND, UNREACHABLE, REFUSED, USAGE, DAMAGED = 3, 4, 5, 2, 7
MIB = 1 << 20
SPEC = {**tensors.SMALL, "model/columns.weight": ("uint8", (9000, 4096), 1)}  # three parts and a bit


def keys(**more):
    return environment(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, GEMEL_PYTHON=sys.executable, **more)


@pytest.fixture(scope="module", params=[Seaweed, Moto], ids=["seaweed", "moto"])
def s3(request):
    with request.param() as server:
        yield server


@pytest.fixture(scope="module")
def seaweed():
    with Seaweed() as server:
        yield server


@pytest.fixture(scope="module")
def saved():
    """A job whose export has a file of several parts, on a cluster with room."""
    with running(servers=2, memory="512MiB") as made:
        with tensors.Trainer("gpt", made.sockets, spec=SPEC) as trainer:
            trainer.save(7)
        yield made


def run(cluster, *arguments, code=0, env=None):
    done = gemel(*arguments, "--dir", cluster.dir, env=env or keys(), timeout_s=120)
    assert done.code == code, done
    return done


def download(server, bucket, prefix, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for key in server.keys(bucket, prefix):
        (folder / key.rsplit("/", 1)[1]).write_bytes(server.read(bucket, key))
    return folder


def test_an_export_in_a_bucket_is_the_same_files(saved, s3, tmp_path):
    s3.new_bucket("models")
    url = s3.url("models", "a b/ü+1")  # what has to be escaped, in the path and in queries
    done = run(saved, "export", "gpt@7", url)
    assert "exported" in done.out and ACCESS_KEY not in done.out + done.err
    check_tensors(download(s3, "models", "a b/ü+1/", tmp_path / "down"), 7, SPEC)
    sizes = s3.keys("models")
    assert sizes["a b/ü+1/model.safetensors"] > 2 * 16 * MIB  # so it went in parts
    if isinstance(s3, Moto):  # whose ETag tells
        etag = s3.client().head_object(Bucket="models", Key="a b/ü+1/model.safetensors")["ETag"]
        assert re.search(r"-[34]\"$", etag), etag
    assert "a b/ü+1/gemel.partial.json" not in sizes and not s3.uploads("models")
    run(saved, "export", "gpt@7", url, "--verify-only")
    run(saved, "import", url, "--job", f"from-{s3.name}")
    assert "already whole" in run(saved, "export", "gpt@7", url).out


def test_a_damaged_object_is_refused_by_name(saved, s3):
    s3.new_bucket("damaged")
    url = s3.url("damaged", "x")
    run(saved, "export", "gpt", url)
    good = s3.read("damaged", "x/optim.safetensors")
    s3.client().put_object(Bucket="damaged", Key="x/optim.safetensors", Body=good[:-1] + bytes([good[-1] ^ 1]))
    for command in (("export", "gpt", url, "--verify-only"), ("import", url, "--job", "y")):
        assert "x/optim.safetensors" in run(saved, *command, code=DAMAGED).err
    s3.client().delete_object(Bucket="damaged", Key="x/optim.safetensors")
    assert "x/optim.safetensors" in run(saved, "import", url, "--job", "y", code=DAMAGED).err


def test_what_passes_is_tried_again(saved, s3, tmp_path):
    s3.new_bucket("spoiled")
    turns = iter([503, "cut", None, 500, None, 503, "cut", "cut"])  # then nothing more
    proxy = SpoilingProxy(s3.port, lambda method, path: next(turns, None))
    try:
        run(saved, "export", "gpt", s3.url("spoiled", "x", proxy.endpoint))
    finally:
        proxy.close()
    check_tensors(download(s3, "spoiled", "x/", tmp_path), 7, SPEC)


def test_every_kind_of_request_is_tried_again(saved, seaweed, tmp_path):
    seaweed.new_bucket("kinds")
    seen = set()

    def first_of_its_kind(method, path):
        kind = (method, *sorted(part.split("=")[0] for part in path.partition("?")[2].split("&") if part))
        first = kind not in seen
        seen.add(kind)
        return 503 if first else None

    proxy = SpoilingProxy(seaweed.port, first_of_its_kind)
    try:
        run(saved, "export", "gpt", seaweed.url("kinds", "x", proxy.endpoint))
    finally:
        proxy.close()
    assert {("PUT",), ("POST", "uploads"), ("POST", "uploadId"), ("PUT", "partNumber", "uploadId"), ("HEAD",),
            ("GET", "list-type", "prefix")} <= seen, seen
    check_tensors(download(seaweed, "kinds", "x/", tmp_path), 7, SPEC)


def test_a_server_that_stays_away_is_given_up_in_time_and_later_it_goes_on(saved, seaweed, tmp_path):
    seaweed.new_bucket("away")
    parts = []

    def no_more_parts(method, path):
        parts.extend([path] if "partNumber" in path else [])
        return "cut" if len(parts) > 1 else None

    proxy = SpoilingProxy(seaweed.port, no_more_parts)
    try:
        done = run(saved, "export", "gpt", seaweed.url("away", "x", proxy.endpoint), "--patience", "2s", code=UNREACHABLE)
        assert proxy.endpoint in done.err and "tries" in done.err
    finally:
        proxy.close()
    assert "x/gemel.json" not in seaweed.keys("away")
    run(saved, "export", "gpt", seaweed.url("away", "x"))
    assert not seaweed.uploads("away")  # also those of the one that was given up
    check_tensors(download(seaweed, "away", "x/", tmp_path), 7, SPEC)


def test_a_dead_server_is_named_and_when_it_is_back_the_export_goes_on(saved, tmp_path):
    own = Seaweed()  # killed, it comes back without some of its volumes for a while
    try:
        own.start().new_bucket("dead")
        own.kill(signal.SIGKILL)
        done = run(saved, "export", "gpt", own.url("dead", "x"), "--patience", "1s", code=UNREACHABLE)
        assert own.endpoint in done.err
        own.start()
        run(saved, "export", "gpt", own.url("dead", "x"))
        check_tensors(download(own, "dead", "x/", tmp_path), 7, SPEC)
    finally:
        own.close()


def test_killed_in_the_middle_of_an_upload_it_goes_on_and_leaves_no_parts(saved, seaweed, tmp_path):
    seaweed.new_bucket("killed")
    started = []

    def kill_at_the_second_part(method, path):
        if "partNumber=2" in path:
            started[0].kill()
            return "cut"
        return None

    proxy = SpoilingProxy(seaweed.port, kill_at_the_second_part)
    started.append(subprocess.Popen(
        [str(GEMEL), "export", "gpt", seaweed.url("killed", "x", proxy.endpoint), "--dir", saved.dir], env=keys(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    assert started[0].wait(60) == -signal.SIGKILL
    proxy.close()
    assert seaweed.uploads("killed") and "x/gemel.json" not in seaweed.keys("killed")
    run(saved, "export", "gpt", seaweed.url("killed", "x"))
    assert not seaweed.uploads("killed")
    check_tensors(download(seaweed, "killed", "x/", tmp_path), 7, SPEC)


def test_what_takes_more_than_a_second_has_a_bar_on_a_terminal_and_nothing_for_a_program(saved, seaweed):
    seaweed.new_bucket("bar")

    def slow(method, path):
        time.sleep(0.5 if method == "PUT" else 0)  # so that an export takes more than a second

    proxy = SpoilingProxy(seaweed.port, slow)
    terminal, inside = pty.openpty()
    try:
        url = seaweed.url("bar", "x", proxy.endpoint)
        done = subprocess.run([str(GEMEL), "export", "gpt", url, "--dir", saved.dir], stdin=subprocess.DEVNULL, stderr=inside,
                              stdout=subprocess.PIPE, env=keys(), timeout=60)
        drawn = os.read(terminal, 1 << 16).decode()
        assert done.returncode == 0 and re.search(r"\[#+ *\] writing .* MiB +\d+ % .*MiB/s", drawn), drawn
        done = run(saved, "export", "gpt", seaweed.url("bar", "y", proxy.endpoint), "-o", "json")
        assert "MiB/s" not in done.err, done
    finally:
        proxy.close()
        os.close(terminal)
        os.close(inside)


def test_wrong_credentials_and_a_missing_bucket_say_what_to_do(saved, seaweed):
    seaweed.new_bucket("mine")
    for wrong in ({"AWS_SECRET_ACCESS_KEY": "no"}, {"AWS_ACCESS_KEY_ID": "no"}, {"AWS_SESSION_TOKEN": "no"}):
        done = run(saved, "export", "gpt", seaweed.url("mine"), env={**keys(), **wrong}, code=REFUSED)
        assert "AWS_ACCESS_KEY_ID" in done.err and "mine" in done.err and "no " not in done.err.split("AWS_")[0], done
    done = run(saved, "export", "gpt", seaweed.url("nobody"), code=NOT_FOUND)
    assert "nobody" in done.err and "make the bucket" in done.err
    done = run(saved, "export", "gpt", seaweed.url("mine"), env={**keys(), "AWS_SECRET_ACCESS_KEY": ""}, code=USAGE)
    assert "AWS_SECRET_ACCESS_KEY" in done.err
    done = run(saved, "export", "gpt", "s3://mine?endpoint=http://192.0.2.7:1", code=REFUSED)
    assert "--insecure" in done.err


def test_a_session_token_is_signed_and_checked():
    """moto with its own access control: keys of a session, with and without their token."""
    server, made = Moto(), Cluster(servers=2)
    try:
        server.start()
        made.up()
        with tensors.Trainer("gpt", made.sockets) as trainer:
            trainer.save(7)
        server.new_bucket("session")
        sts = boto3.client("sts", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id=ACCESS_KEY,
                           aws_secret_access_key=SECRET_KEY)
        given = sts.assume_role(RoleArn="arn:aws:iam::123456789012:role/r", RoleSessionName="session")["Credentials"]
        env = environment(AWS_ACCESS_KEY_ID=given["AccessKeyId"], AWS_SECRET_ACCESS_KEY=given["SecretAccessKey"],
                          AWS_SESSION_TOKEN=given["SessionToken"], AWS_ENDPOINT_URL=server.endpoint, AWS_REGION="us-east-1")
        run(made, "export", "gpt", "s3://session/x", env=env)
        assert "x/gemel.json" in server.keys("session")
    finally:
        made.wipe()
        server.close()
