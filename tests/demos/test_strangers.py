"""What a page does not do for whoever asks it, by its routes and without a browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from demo_pages import LOOPBACK_ONLY

ELSEWHERE = "http://192.0.2.1/picture.png"
"""At nobody's address (RFC 5737)."""
PROGRAM = "import sys; from pathlib import Path; {before}; from demos.command import demo; demo(Path(sys.argv[1]))"


@contextmanager
def serving(folder, log, before="pass"):
    """The address of the page of a folder, in a process of its own that runs `before` first and gets at nothing but loopback."""
    command = [sys.executable, "-u", "-c", PROGRAM.format(before=before), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(LOOPBACK_ONLY), "NETWORK_LOG": str(log)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        try:
            said = [next(process.stdout)]
            while "http" not in said[-1]:
                said.append(process.stdout.readline())
                assert said[-1], said
            yield next(word for word in said[-1].split() if word.startswith("http"))
        finally:
            process.send_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """What the server asked of other machines."""
    return tmp_path_factory.mktemp("strangers") / "asked.txt"


@pytest.fixture(scope="module")
def address(runs, log):
    """A page of pictures."""
    with serving(runs("image"), log) as found:
        yield found


def got(address, path):
    """Status of a request."""
    try:
        with urllib.request.urlopen(f"{address}{path}") as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def asked(address, session, *given, number=0):
    """What is said at the end of a call."""
    body = json.dumps({"data": given, "fn_index": number, "session_hash": session}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}gradio_api/queue/join", body, {"Content-Type": "application/json"})
    ):
        pass
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash={session}", timeout=60) as reply:
        for line in reply:
            if line.startswith(b"data:") and (said := json.loads(line[5:]))["msg"] == "process_completed":
                return said["output"]
    raise AssertionError("no end")


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_file_that_nobody_uploaded_is_not_read(address, meta, tmp_path):
    path = tmp_path / "private.txt"
    path.write_text("mine")
    said = asked(address, f"file{len(meta)}", {"path": str(path), **meta})
    assert "was not uploaded by a user" in said.get("error", "") or "Choose a picture" in said["data"][0]


def test_name_that_no_file_can_have_is_no_file(address):
    said = asked(address, "nul", {"path": "a\0b"})
    assert "Choose a picture" in said["data"][0]


def test_nothing_is_fetched_for_whoever_names_an_address(address, log):
    assert got(address, f"gradio_api/file={ELSEWHERE}") == 403
    said = asked(address, "elsewhere", {"path": ELSEWHERE, "meta": {"_type": "gradio.FileData"}})
    assert "nothing is fetched from 192.0.2.1" in said["error"]
    assert not log.exists() or log.read_text() == ""


def test_pictures_of_examples_outlive_uploads(runs, log):
    """Of what lies among uploads old files are deleted."""
    with serving(
        runs("image"), log, "from demos.side import page; page.UPLOADS_KEPT_SECONDS = page.LOOKED_AFTER_SECONDS = 1"
    ) as address:
        first = asked(address, "rows", 0, number=1)["data"][0]["path"]
        until = time.monotonic() + 20
        while got(address, f"gradio_api/file={first}") == 200 and time.monotonic() < until:
            time.sleep(0.2)
        again = asked(address, "again", 0, number=1)["data"][0]["path"]
        assert got(address, f"gradio_api/file={again}") == 200


def sent(address, content, name="a.png", **headers):
    """Status of an upload, and what is said of it."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    body = head + content + b"\r\n--x--\r\n"
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    request = urllib.request.Request(
        f"{address}gradio_api/upload",
        chunked if "Content-Length" in headers else iter([body]) if headers else body,
        {"Content-Type": "multipart/form-data; boundary=x", **headers},
    )
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_uploads_of_all_users_are_bounded_together(runs, log):
    with serving(runs("image"), log, "from demos.side import uploads; uploads.MOST_TOGETHER = 300_000") as address:
        status, (path,) = sent(address, bytes(200_000))
        assert status == 200
        assert sent(address, b"1" * 150_000) == (507, "there is no room for more files now: come again in a while")
        assert sent(address, b"1", **{"Transfer-Encoding": "chunked"}) == (411, "an upload says how long it is")
        both = {"Transfer-Encoding": "chunked", "Content-Length": "1"}
        assert sent(address, b"1", **both)[0] in (400, 411), "the length that is said is not that of what comes"
        Path(path).unlink()
        assert sent(address, b"1" * 150_000)[0] == 200
