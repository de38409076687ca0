"""Downloads against a server on the loopback that misbehaves in every way that we know."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchcliff.data import cifar, download, sources
from batchcliff.errors import DataError, StorageError

CONTENT = bytes(range(256)) * 40  # 10,240 bytes


class Server(http.server.ThreadingHTTPServer):
    """Answers request n with behaviours[n], and the last one ever after."""

    behaviours: list[str]
    requests: int = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client hung up on "endless", as it should."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cifar.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def answer(self, status: int, body: bytes, length: int | None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        kinds = self.server.behaviours
        kind = kinds[min(self.server.requests, len(kinds) - 1)]
        self.server.requests += 1
        flipped = CONTENT[:5000] + bytes([CONTENT[5000] ^ 4]) + CONTENT[5001:]
        page = b"<html>please log in</html>"
        match kind:
            case "good":
                self.answer(200, CONTENT, len(CONTENT))
            case "good without length":
                self.answer(200, CONTENT, None)
            case "truncated":
                self.answer(200, CONTENT[:3000], len(CONTENT))
            case "truncated without length":
                self.answer(200, CONTENT[:3000], None)
            case "flipped":
                self.answer(200, flipped, len(CONTENT))
            case "page":
                self.answer(200, page, len(page))
            case "endless":
                self.answer(200, CONTENT * 1000, len(CONTENT) * 1000)
            case "missing":
                self.answer(404, page, len(page))
            case "busy":
                self.answer(503, page, len(page))
            case "to http":
                self.answer(302, b"", 0, Location=self.server.url)
            case "to file":
                self.answer(302, b"", 0, Location="file:///etc/hostname")
            case "hangs up":
                self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


class Fetch:
    """`fetch` over plain http, with the production redirect rule, and without waiting."""

    def __init__(self, server: Server, make: Any, target: Path) -> None:
        self.archive = make.pin(CONTENT, server.url)
        self.server, self.target = server, target
        self.rejected = target.with_name(target.name + ".rejected")
        self.slept: list[float] = []
        self.said: list[str] = []

    def __call__(self, *behaviours: str) -> None:
        self.server.behaviours = list(behaviours)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), download.HttpsRedirects()
        )
        download.fetch(
            self.archive,
            self.target,
            advice="ADVICE.",
            report=self.said.append,
            opener=opener,
            sleep=self.slept.append,
        )

    def left(self) -> list[str]:
        return sorted(p.name for p in self.target.parent.iterdir())


@pytest.fixture
def fetch(server: Server, make: Any, tmp_path: Path) -> Fetch:
    return Fetch(server, make, tmp_path / "data" / "cifar.tar.gz")


@pytest.mark.parametrize("kind", ["good", "good without length"])
def test_a_good_file_gets_its_name(fetch: Fetch, kind: str) -> None:
    fetch(kind)
    assert fetch.target.read_bytes() == CONTENT
    assert fetch.left() == ["cifar.tar.gz"]
    assert (fetch.slept, fetch.said) == ([], [])


@pytest.mark.parametrize("kind", ["truncated", "truncated without length", "busy", "hangs up"])
def test_a_transient_fault_is_tried_again(fetch: Fetch, kind: str) -> None:
    fetch(kind, kind, "good")
    assert fetch.target.read_bytes() == CONTENT
    assert fetch.left() == ["cifar.tar.gz"]
    assert fetch.slept == [1.0, 4.0]
    assert len(fetch.said) == 2
    assert "trying again in 1 s" in fetch.said[0]


@pytest.mark.parametrize("kind", ["truncated", "truncated without length"])
def test_a_file_that_stays_cut_short_is_rejected(fetch: Fetch, make: Any, kind: str) -> None:
    found = make.pin(CONTENT[:3000])
    with pytest.raises(DataError) as caught:
        fetch(kind)
    assert fetch.server.requests == 3
    assert fetch.rejected.read_bytes() == CONTENT[:3000]
    assert fetch.left() == ["cifar.tar.gz.rejected"]
    for part in (found.sha256, "3,000", fetch.archive.sha256, "10,240", "ADVICE."):
        assert part in str(caught.value)
    assert repr(str(fetch.rejected)) in str(caught.value)


@pytest.mark.parametrize("kind", ["flipped", "page", "endless"])
def test_a_wrong_file_is_rejected_at_once(fetch: Fetch, kind: str) -> None:
    with pytest.raises(DataError, match=r"expected 10,240 bytes with SHA-256 .* ADVICE\."):
        fetch(kind)
    assert fetch.server.requests == 1
    assert fetch.left() == ["cifar.tar.gz.rejected"]
    # However much is sent, one byte more than the file has is all that is taken.
    assert fetch.rejected.stat().st_size <= len(CONTENT) + 1


def test_a_missing_file_is_not_tried_again(fetch: Fetch) -> None:
    with pytest.raises(DataError, match=r"the server answered 404 .* ADVICE\."):
        fetch("missing")
    assert fetch.server.requests == 1
    assert fetch.left() == []


@pytest.mark.parametrize("kind", ["to http", "to file"])
def test_a_redirect_away_from_https_is_refused(fetch: Fetch, kind: str) -> None:
    with pytest.raises(DataError, match=r"only https is followed|is not allowed"):
        fetch(kind, "good")
    assert fetch.server.requests == 1
    assert fetch.left() == []


def test_production_speaks_only_https(fetch: Fetch) -> None:
    fetch.server.behaviours = ["good"]
    with pytest.raises(DataError, match="only https is spoken"):
        download.fetch(fetch.archive, fetch.target)
    for url in (fetch.archive.url, "file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"):
        with pytest.raises(OSError, match="unknown url type"):
            download.https_opener().open(url, timeout=1.0)
    assert fetch.server.requests == 0


def test_a_folder_that_cannot_be_written(fetch: Fetch) -> None:
    fetch.target.parent.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot make"):
        fetch("good")
    assert fetch.server.requests == 0


def test_a_full_disk_is_a_storage_error(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        fetch("good")
    assert fetch.left() == []


class Offline:
    def open(self, fullurl: str, data: None = None, timeout: float = 0) -> Any:
        raise urllib.error.URLError(OSError(-3, "Temporary failure in name resolution"))


def test_offline_says_which_file_to_put_where(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "https_opener", Offline)
    monkeypatch.setattr(download, "_PAUSES_SECONDS", (0.0, 0.0))
    said: list[str] = []
    with pytest.raises(DataError) as caught:
        sources.load("cifar10", report=said.append)
    message = str(caught.value)
    for part in (
        "Temporary failure in name resolution",
        f"Put cifar-10-binary.tar.gz (170,052,171 bytes, SHA-256 {cifar.ARCHIVE.sha256})",
        f"into {str(own_folder)!r}",
        "--data PATH",
        "train*.parquet",
    ):
        assert part in message
    assert said[0] == f"downloading {cifar.ARCHIVE.url} (170,052,171 bytes)"
    assert len(said) == 3


def test_a_wrong_archive_in_the_data_folder_is_rejected(own_folder: Path) -> None:
    own_folder.mkdir()
    (own_folder / cifar.ARCHIVE.name).write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"found 6 bytes with SHA-256 .*\.rejected'"):
        sources.load("cifar10")
    assert [p.name for p in own_folder.iterdir()] == [f"{cifar.ARCHIVE.name}.rejected"]


def test_the_archive_in_the_data_folder_is_used(
    tiny: Any, make: Any, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_folder.mkdir()
    path = tiny.archive(own_folder / cifar.ARCHIVE.name)
    monkeypatch.setattr(cifar, "ARCHIVE", make.pin(path.read_bytes()))
    monkeypatch.setattr(download, "https_opener", Offline)
    dataset = sources.load("cifar10")
    assert len(dataset.train_labels) == 60
    assert dataset.source.startswith("official binary archive")
    assert (own_folder / "decoded").is_dir()
