# SPDX-License-Identifier: Apache-2.0
"""Downloads from a server in this process: whole, cut off, wrong, absent, and onto a full disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from linfdeploy.errors import DatasetError, InputError
from linfdeploy.training.data import download as module
from linfdeploy.training.data.download import REMOTES, Remote, download

BODY = bytes(range(256)) * 5000
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/absent":
            self.send_error(404, "Not Found")
            return
        body = {"/whole": BODY, "/other": b"other", "/short": BODY}[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # The other side hangs up on what is too long.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[: 1000 if self.path == "/short" else None])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def offered(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a data set be had from paths of the server."""

    def offer(*paths: str) -> None:
        urls = tuple(path if "://" in path else f"{server}{path}" for path in paths)
        remote = Remote(("sub/file.gz", "sub/file"), urls, "sha256", SHA)
        monkeypatch.setattr(module, "REMOTES", {"mnist": (remote,)})

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return offer


def assert_nothing_left(root: Path) -> None:
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_whole_file(tmp_path: Path, server: str, offered: Any) -> None:
    offered("/whole")
    said: list[str] = []
    download("mnist@20", tmp_path, said.append)
    assert (tmp_path / "sub" / "file.gz").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["file.gz"]
    download("mnist", tmp_path, said.append)
    assert said == [
        f"downloading {server}/whole",
        f"{tmp_path}/sub/file.gz is there, and its sha256 is the published one",
    ]


def test_a_mirror_serves_where_the_first_fails(tmp_path: Path, offered: Any) -> None:
    offered("/absent", "/other", "/whole")
    download("mnist", tmp_path)
    assert (tmp_path / "sub" / "file.gz").read_bytes() == BODY


def test_what_is_unpacked_is_not_fetched(tmp_path: Path, offered: Any) -> None:
    offered("/absent")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").touch()
    said: list[str] = []
    download("mnist", tmp_path, said.append)
    assert said == [f"{tmp_path}/sub/file is there, unpacked"]


def test_what_is_there_and_another(tmp_path: Path, offered: Any) -> None:
    offered("/whole")
    path = tmp_path / "sub" / "file.gz"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    found = hashlib.sha256(b"mine").hexdigest()
    with pytest.raises(DatasetError) as caught:
        download("mnist", tmp_path)
    assert str(caught.value) == (
        f"{path} has the sha256 {found}; expected {SHA}: remove it to download it again, or omit "
        "--download if it is meant to be another"
    )
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/absent", "the server answers 404 Not Found"),
        ("/other", f"its sha256 is {hashlib.sha256(b'other').hexdigest()} and not {SHA}"),
        ("/short", f"the connection ended after 1000 of {len(BODY)} bytes"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(
    tmp_path: Path, server: str, offered: Any, path: str, reason: str
) -> None:
    offered(path)
    with pytest.raises(DatasetError) as caught:
        download("mnist", tmp_path)
    assert str(caught.value) == (
        f"cannot download file.gz ({server}{path}: {reason}); expected the published file: try again, or "
        f"copy it to {tmp_path}/sub/file.gz by hand"
    )
    assert_nothing_left(tmp_path)


def test_no_network(tmp_path: Path, offered: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    offered(f"http://127.0.0.1:{port}/whole", "http://no.such.host.invalid/whole")
    with pytest.raises(DatasetError) as caught:
        download("mnist", tmp_path)
    assert "/whole: [Errno 111] Connection refused; http://no.such.host.invalid/whole: [Errno" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_nothing_left(tmp_path)


def test_a_file_without_end(tmp_path: Path, offered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offered("/whole")
    monkeypatch.setattr(module, "MAX_DOWNLOAD", 1000)
    with pytest.raises(DatasetError, match=rf"it has {len(BODY)} bytes, more than 1000\)"):
        download("mnist", tmp_path)
    assert_nothing_left(tmp_path)


def test_a_full_disk(tmp_path: Path, offered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    offered("/whole")
    monkeypatch.setattr("linfdeploy.files.os.fdopen", Full)
    with pytest.raises(InputError) as caught:
        download("mnist", tmp_path)
    assert str(caught.value) == (
        f"cannot write {tmp_path}/sub/file.gz: No space left on device; free space or choose a folder"
    )
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("name", ["digits", "folder:x", "x.npz"])
def test_what_has_no_address(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError) as caught:
        download(name, tmp_path)
    assert str(caught.value) == (
        f"the data set is {name}, which has no address; expected one of mnist, fashion-mnist, cifar10, cifar100, "
        "tiny-imagenet: omit --download"
    )


def test_digests_and_addresses_are_well_formed() -> None:
    lengths = {"md5": 32, "sha256": 64}
    for remotes in REMOTES.values():
        for remote in remotes:
            assert len(bytes.fromhex(remote.digest)) * 2 == lengths[remote.algorithm]
            assert all(url.endswith(f"/{Path(remote.places[0]).name}") for url in remote.urls)
