"""One download: https only, of a pinned file, complete and verified or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from batchcliff.data.cifar import Archive
from batchcliff.data.verify import shown
from batchcliff.errors import DataError, StorageError

TRIES = 3
_PAUSES_SECONDS = (1.0, 4.0)  # before the second and the third try
_TIMEOUT_SECONDS = 30.0  # without a byte
_CHUNK = 1 << 20


class Opener(Protocol):
    """What `fetch` needs of urllib: open a URL for reading."""

    def open(self, fullurl: str, data: None = None, timeout: float = ...) -> Any: ...


class HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to https and refuses every other one."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith("https://"):
            fp.close()
            raise DataError(
                f"{req.full_url} redirects to {newurl[:200]!r}: only https is followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def https_opener() -> Opener:
    """An opener that knows https and nothing else: no http, ftp, file or data URLs."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        HttpsRedirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "batchcliff")]
    return opener


class _TryAgain(Exception):
    """The network or the server failed; the next try may succeed."""


def fetch(
    archive: Archive,
    target: Path,
    *,
    advice: str = "",
    report: Callable[[str], None] | None = None,
    opener: Opener | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Download `archive` to `target`; the final name appears only with the right content.

    Up to three tries with growing pauses when the network or the server fails. A file that is
    complete and wrong, or still cut short at the last try, is kept as `<target>.rejected`.

    Raises DataError (with both sizes and digests, the place, and `advice`) if the file cannot
    be had or is not the pinned one, StorageError if it cannot be written. `opener` and `sleep`
    are for tests: without an opener, only https is spoken.
    """
    if opener is None and not archive.url.startswith("https://"):
        raise DataError(f"{archive.url}: only https is spoken")
    chosen = opener or https_opener()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {shown(target.parent)}: {error}") from error
    for attempt in range(TRIES):
        last = attempt == TRIES - 1
        try:
            _try_once(chosen, archive, target, last, advice)
            return
        except _TryAgain as error:
            if last:
                raise DataError(
                    f"cannot download {archive.url}: {error} ({TRIES} tries). {advice}"
                ) from error
            if report is not None:
                report(f"{error}; trying again in {_PAUSES_SECONDS[attempt]:g} s")
            sleep(_PAUSES_SECONDS[attempt])


def reject(file: Path, target: Path) -> Path:
    """Rename a wrong `file` to `<target>.rejected` and return that. StorageError."""
    rejected = target.with_name(target.name + ".rejected")
    try:
        file.replace(rejected)
    except OSError as error:
        raise StorageError(f"cannot rename {shown(file)}: {error}") from error
    return rejected


def _try_once(opener: Opener, archive: Archive, target: Path, last: bool, advice: str) -> None:
    with _open(opener, archive, advice) as response:
        try:
            handle, name = tempfile.mkstemp(prefix=".part-", dir=target.parent)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    size, digest, promised = _copy(response, file, archive.size)
                temporary.chmod(0o644)
                if (size, digest) == (archive.size, archive.sha256):
                    temporary.replace(target)
                    return
                if size < min(promised, archive.size) and not last:
                    raise _TryAgain(
                        f"the connection ended after {size:,} of {archive.size:,} bytes"
                    )
                rejected = reject(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"cannot write to {shown(target.parent)}: {error}") from error
    more = "more than " if size > archive.size else ""
    raise DataError(
        f"{archive.url} gave {more}{min(size, archive.size):,} bytes with SHA-256 {digest}; "
        f"expected {archive.size:,} bytes with SHA-256 {archive.sha256}. What came is kept as "
        f"{shown(rejected)}. {advice}"
    )


def _open(opener: Opener, archive: Archive, advice: str) -> Any:
    try:
        return opener.open(archive.url, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (408, 429) or error.code >= 500:
            raise _TryAgain(f"the server answered {error.code} {error.reason}") from error
        raise DataError(
            f"cannot download {archive.url}: the server answered {error.code} {error.reason}. "
            f"{advice}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgain(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _copy(response: Any, file: IO[bytes], most: int) -> tuple[int, str, int]:
    """Copy at most `most` + 1 bytes; their number, their SHA-256, and the number promised."""
    length = response.headers.get("Content-Length", "")
    promised = int(length) if length.isdecimal() else most
    state, size = hashlib.sha256(), 0
    while size <= most:
        try:
            data = response.read(min(_CHUNK, most + 1 - size))
        except http.client.IncompleteRead as error:
            data = error.partial
        except (OSError, http.client.HTTPException):
            break  # the server is gone: what came is cut short
        if not data:
            break
        state.update(data)
        size += len(data)
        file.write(data)
    file.flush()
    os.fsync(file.fileno())
    return size, state.hexdigest(), promised
