"""The bytes of one picture from an http(s) address, within limits of size, time and redirects."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from .errors import ImageError, plain

if TYPE_CHECKING:
    import requests  # imported at the first download: it takes 50 ms

MAX_BYTES = 50 * 2**20
TIMEOUT = 20.0
MAX_REDIRECTS = 5

SAVE_IT = "Open it in a browser, save the picture, and give the path of the file."
_STATUS_REPAIRS = {
    401: f"The site wants a sign-in. {SAVE_IT}",
    403: f"The site does not give it to programs. {SAVE_IT}",
    404: "Nothing is at that address: open it in a browser and copy it again.",
    410: "The picture was taken down: give another address.",
    429: f"The site gets too many requests: wait some minutes. {SAVE_IT}",
}
# zlib expands at most about a thousandfold, so one chunk stays small. Other codings, or several on
# top of each other, have no such bound, and were not asked for.
_CODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
_CHUNK = 16 * 2**10  # bytes


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a picture's file, what messages call it, and the Content-Type it came with."""

    name: str
    data: bytes = field(repr=False)
    content_type: str = ""


def fetch(
    url: str,
    *,
    max_bytes: int = MAX_BYTES,
    timeout: float = TIMEOUT,
    max_redirects: int = MAX_REDIRECTS,
    allow_private: bool = False,
) -> Content:
    """Fetch `url`; the options are those of `images.open_image`. Raises ImageError only."""
    import requests

    timeout, hop = min(float(timeout), 1e6), url  # a socket takes no more than some years
    ends = time.monotonic() + timeout
    try:
        for _ in range(int(max_redirects) + 1):
            # A session a hop: no cookie goes from one address to the next.
            with requests.Session() as session:
                request = requests.Request("GET", hop, headers=_headers()).prepare()
                if not allow_private:
                    _check_public(urlsplit(request.url).hostname, hop, url)
                settings = session.merge_environment_settings(request.url, {}, True, None, None)
                settings |= {"timeout": max(ends - time.monotonic(), 0.01)}
                with session.send(request, allow_redirects=False, **settings) as response:
                    if not response.is_redirect:
                        return _read(response, shown(hop), max_bytes, ends)
                    hop = _redirect_target(hop, response.headers["Location"])
    except ImageError:
        raise
    except Exception as error:  # of requests, urllib3, http.client, ssl and the socket
        raise ImageError(_network_repair(error, shown(hop), timeout)) from error
    raise ImageError(
        f"{shown(url)} leads from one address to another more than {max_redirects} times. Open it "
        "in a browser and copy the address of the picture itself."
    )


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        # One that carries an IPv4 address is judged by that: IPv4-mapped (RFC 4291), 6to4 (RFC
        # 3056), NAT64 (RFC 6052).
        carried = ip.ipv4_mapped or ip.sixtofour
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(str(carried))
        if ip not in ipaddress.ip_network("2000::/3"):  # all of global unicast
            return False
    # 192.0.0.0/24 holds metadata servers of clouds, and is partly "global" in older Pythons.
    return ip.is_global and not ip.is_multicast and ip not in ipaddress.ip_network("192.0.0.0/24")


def shown(url: str) -> str:
    """An address for a message: without its password and query, which may hold a key."""
    address = re.split(r"[?#]", url, maxsplit=1)[0]
    without_password = re.sub(r"^(\w+:/*)[^/\\]*@", r"\1", address)
    return plain(without_password + "?..." * ("?" in url))


def _headers() -> dict[str, str]:
    """Who asks, with a contact: Wikimedia's User-Agent policy refuses programs that give none."""
    from importlib.metadata import PackageNotFoundError, metadata

    agent = "llava_nb"
    with suppress(PackageNotFoundError):  # a copy of the folder that was never installed
        about = metadata("llava_nb")
        places = [line.partition(", ")[2] for line in about.get_all("Project-URL") or ()]
        agent += f"/{about['Version']} ({'; '.join(places)})"
    return {"User-Agent": agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}


def _check_public(host: str, url: str, first: str) -> None:
    """Raise ImageError if `host` is, by one of its addresses, no host of the open internet."""
    try:
        found = [entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise ImageError(
            f"{shown(url)}: no computer named {plain(host)} was found. Check the spelling, and "
            "that this machine is online. If only a proxy can find it and you trust it, call "
            "open_image(..., allow_private=True)."
        ) from error
    private = [address for address in found if not is_public(address)]
    if private:
        where = shown(url) if url == first else f"{shown(first)} leads to {shown(url)}, which"
        raise ImageError(
            f"{where} is inside a private network or this machine ({plain(private[0])}). If you "
            "trust it, call open_image(..., allow_private=True)."
        )


def _redirect_target(url: str, location: str) -> str:
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")  # http.client reads Latin-1
    target = urljoin(url, location)
    if urlsplit(target).scheme in ("http", "https"):
        return target
    raise ImageError(
        f"{shown(url)} leads to {shown(target)}; only http and https are followed. {SAVE_IT}"
    )


def _read(response: requests.Response, name: str, max_bytes: int, ends: float) -> Content:
    code = response.status_code
    if code != 200:
        repair = "The fault is the site's: try again later." if code >= 500 else SAVE_IT
        said = f"{code} {plain(response.reason or '', 40)}"
        raise ImageError(f"{name} answered {said}. {_STATUS_REPAIRS.get(code, repair)}")
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in _CODINGS:
        raise ImageError(f"{name} came compressed as {plain(coding, 60)}. {SAVE_IT}")
    data = bytearray()
    size = response.raw.length_remaining or 0  # from Content-Length, if there was one
    while size <= max_bytes:
        if time.monotonic() > ends:
            raise TimeoutError
        # What has come: read() would wait for a full chunk, however slowly it drips.
        chunk = response.raw.read1(_CHUNK, decode_content=True)
        if not chunk:
            break
        data += chunk
        size = max(size, len(data))
    if size > max_bytes:
        raise ImageError(
            f"{name} is larger than the limit of {max_bytes / 2**20:.1f} MiB. Give a smaller "
            "version, or call open_image(..., max_bytes=...) with a larger limit."
        )
    if not data:
        raise ImageError(f"{name} sent 0 bytes. {SAVE_IT}")
    return Content(name, bytes(data), response.headers.get("Content-Type", "").lower())


def _network_repair(error: Exception, name: str, timeout: float) -> str:
    """The message for whatever requests, urllib3, ssl or the socket raised."""
    import ssl

    from requests.exceptions import InvalidProxyURL, InvalidSchema, ProxyError

    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    last = plain(causes[-1], 80)
    for kinds, repair in {
        (ProxyError, InvalidProxyURL, InvalidSchema): (
            ": the proxy does not answer. Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY."
        ),
        TimeoutError: (
            f" did not arrive within {timeout:g} seconds. Try again, call open_image(..., "
            f"timeout={3 * timeout:g}), or save the picture and give its path."
        ),
        ssl.SSLError: f": no secure connection ({last}). {SAVE_IT}",
        ConnectionRefusedError: (
            ": connection refused. Check the host and port, and that its server runs."
        ),
    }.items():
        if any(isinstance(cause, kinds) for cause in causes):
            return name + repair
    if isinstance(error, ValueError):  # the only kind raised before anything is sent
        return f"{name} is not a complete http(s) address: copy it again from the browser."
    return f"{name}: the transfer broke off ({last}). Try again."
