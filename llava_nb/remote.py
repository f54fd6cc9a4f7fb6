"""Fetching the bytes of one picture from an http(s) address, within limits.

Covered: size, total time and number of redirects; refusing addresses inside private networks; every
failure as a sentence with a repair.
Not covered: which addresses are private (addresses.py), sign-in, cookies, retries and caching. No
requests.Session is used, so no cookie and no .netrc entry goes from one address to the next.
"""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy

from .addresses import WatchedAdapter, is_public
from .errors import ImageError
from .repairs import SAVE_IT, network_repair, plain, shown, status_repair, too_slow

_HEADERS = {
    "User-Agent": "llava_nb",
    "Accept": "image/*,*/*;q=0.5",
    "Accept-Encoding": "identity",
}
# zlib expands at most about a thousandfold, so one chunk stays small. Other codings, or several on
# top of each other, have no such bound, and were not asked for.
_CODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
_CHUNK = 16 * 2**10  # bytes


@dataclass(frozen=True)
class Download:
    """What an address gave: the bytes, the Content-Type it claimed, the address for messages."""

    data: bytes
    content_type: str
    name: str


def fetch(
    url: str, *, max_bytes: int, timeout: float, max_redirects: int, allow_private: bool
) -> Download:
    """Fetch `url`; the options are those of `images.open_image`. Raises ImageError only.

    The work is done in a thread of its own: a socket's timeout bounds one read, not a server that
    sends a byte now and then, and the look-up of a name has no timeout at all.
    """
    transfer = _Transfer(url, max_bytes, timeout, max_redirects, allow_private)
    result: Future[Download] = Future()

    def work() -> None:
        try:
            result.set_result(transfer.follow())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, name="llava_nb fetch", daemon=True).start()
    try:
        return result.result(timeout)
    except FutureTimeoutError:
        raise ImageError(too_slow(shown(url), timeout)) from None
    finally:
        transfer.abandon()


@dataclass
class _Transfer:
    """One download with its redirects: `follow` in one thread, `abandon` from another."""

    url: str
    max_bytes: int
    timeout: float
    max_redirects: int
    allow_private: bool
    lock: threading.Lock = field(default_factory=threading.Lock)
    sockets: list[socket.socket] = field(default_factory=list)
    abandoned: bool = False

    def follow(self) -> Download:
        url = self.url
        try:
            for _ in range(self.max_redirects + 1):
                with self._request(url) as response:
                    if not response.is_redirect:
                        return _read(response, shown(url), self.max_bytes)
                    url = _redirect_target(url, response.headers["Location"])
        except ImageError:
            raise
        except Exception as error:  # of requests, urllib3, http.client, ssl and the socket
            raise ImageError(network_repair(error, shown(url), self.timeout)) from error
        raise ImageError(
            f"{shown(self.url)} leads from one address to another more than {self.max_redirects} "
            "times. Open it in a browser and copy the address of the picture itself."
        )

    def abandon(self) -> None:
        """Shut every connection, so that a read waiting in the other thread ends at once."""
        with self.lock:
            self.abandoned = True
            for duplicate in self.sockets:
                try:
                    duplicate.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # closed by the server already
                duplicate.close()
            self.sockets.clear()

    def _request(self, url: str) -> requests.Response:
        request = requests.Request("GET", url, headers=_HEADERS).prepare()
        parts = urlsplit(request.url)
        proxy = select_proxy(request.url, get_environ_proxies(request.url))
        # A proxy looks the name up itself, and our connection ends at the proxy, often at a
        # private address. So with a proxy our own look-up is the whole check. Without one it only
        # spares the private network a connection; `connected` judges the address really reached,
        # before a byte is sent, whatever the name server answers the second time.
        if not (proxy and self.allow_private):
            for address in _look_up(parts.hostname, shown(url), proxied=bool(proxy)):
                self._refuse_private(address, url)

        def connected(connection: socket.socket) -> None:
            if not proxy:
                self._refuse_private(connection.getpeername()[0], url)
            with self.lock:
                if self.abandoned:
                    raise ImageError(too_slow(shown(url), self.timeout))
                self.sockets.append(connection.dup())  # stays valid when TLS wraps the original

        return WatchedAdapter(connected).send(
            request,
            stream=True,
            timeout=self.timeout,
            verify=os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True,
            proxies={parts.scheme: proxy} if proxy else {},
        )

    def _refuse_private(self, address: str, url: str) -> None:
        if self.allow_private or is_public(address):
            return
        where = shown(url)
        if url != self.url:
            where = f"{shown(self.url)} leads to {where}, which"
        raise ImageError(
            f"{where} is inside a private network or this machine "
            f"({plain(address)}). If you trust it, call open_image(..., allow_private=True)."
        )


def _look_up(host: str, name: str, *, proxied: bool) -> list[str]:
    try:
        return [entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        if proxied:
            raise ImageError(
                f"{name}: only the proxy can find {plain(host)}, so it may be inside a private "
                "network. If you trust it, call open_image(..., allow_private=True)."
            ) from error
        raise ImageError(
            f"{name}: no computer named {plain(host)} was found. Check the spelling, and that "
            "this machine is online."
        ) from error


def _redirect_target(url: str, location: str) -> str:
    try:
        location = location.encode("latin-1").decode("utf-8")  # http.client reads Latin-1
    except UnicodeError:
        pass
    target = urljoin(url, location)
    if urlsplit(target).scheme not in ("http", "https"):
        raise ImageError(
            f"{shown(url)} leads to {shown(target)}; only http and https are followed. {SAVE_IT}"
        )
    return target


def _read(response: requests.Response, name: str, max_bytes: int) -> Download:
    if response.status_code != 200:
        raise ImageError(status_repair(response.status_code, response.reason, name))
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in _CODINGS:
        raise ImageError(f"{name} came compressed as {plain(coding, 60)}. {SAVE_IT}")
    data = bytearray()
    expected = response.raw.length_remaining or 0  # from Content-Length, if there was one
    for chunk in response.iter_content(_CHUNK) if expected <= max_bytes else ():
        data += chunk
        if len(data) > max_bytes:
            break
    if max(expected, len(data)) > max_bytes:
        raise ImageError(
            f"{name} is larger than the limit of {max_bytes / 2**20:.1f} MiB. Give a smaller "
            "version, or call open_image(..., max_bytes=...) with a larger limit."
        )
    if not data:
        raise ImageError(f"{name} sent 0 bytes. {SAVE_IT}")
    return Download(bytes(data), response.headers.get("Content-Type", "").lower(), name)
