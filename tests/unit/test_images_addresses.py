"""open_image() reaches no private address, however it is written, named or redirected to."""

from __future__ import annotations

import socket
import threading

import pytest
from picture_samples import PNG

from llava_nb.download import is_public
from llava_nb.errors import ImageError
from llava_nb.images import open_image

PUBLIC = "93.184.215.14"


@pytest.mark.parametrize(
    "address",
    """
    127.0.0.1 127.9.9.9 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200
    0.0.0.0 224.0.0.1 240.0.0.1 255.255.255.255 192.0.0.192 192.0.2.1 198.18.0.1 203.0.113.1
    :: ::1 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 fec0::1 ff02::1 ff0e::1 2001:db8::1 100::1
    2001::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::7f00:1
    64:ff9b::a9fe:a9fe 64:ff9b:1::808:808 2002:7f00:1:: 2002:a00:1::1
    """.split(),
)
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    "8.8.8.8 172.32.0.1 100.128.0.1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808".split(),
)
def test_public_addresses(address):
    assert is_public(address)


@pytest.fixture
def names(monkeypatch):
    """A name server: host -> the addresses of its first, second ... look-up; the last stays."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    known = {}

    def getaddrinfo(host, port, *args, **options):
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port or 0)) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.fixture
def listener():
    """A listening socket that answers every connection once; `received` is what it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        listener = _Listener(server)
        yield listener


class _Listener:
    def __init__(self, server):
        self.port, self.received, self.answer = server.getsockname()[1], [], b""
        self.server, self.thread = server, threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(30)
                self.received.append(connection.recv(65536))
                connection.sendall(self.answer)


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.0 {status}", *headers, "", ""]).encode() + body


def test_name_that_is_not_known(names):
    with pytest.raises(ImageError, match="no computer named nowhere.example was found"):
        open_image("http://nowhere.example/cat.png")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_private_name_is_refused_without_a_connection(names, listener, scheme):
    names["intranet.example"] = [[PUBLIC, "127.0.0.1"]]
    message = r"private network or this machine \(127.0.0.1\).*allow_private=True"
    with pytest.raises(ImageError, match=message):
        open_image(f"{scheme}://intranet.example:{listener.port}/cat.png")
    assert listener.received == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"])
def test_spellings_of_this_machine(host):
    with pytest.raises(ImageError, match=r"/cat.png is inside a private network or this machine"):
        open_image(f"http://example.org@{host}/cat.png")


def test_redirect_to_a_private_address(names, listener, monkeypatch):
    names["site.example"], names["intranet.example"] = [["127.0.0.1"]], [["192.168.1.1"]]
    monkeypatch.setattr("llava_nb.download.is_public", lambda address: address == "127.0.0.1")
    listener.answer = answer("302 Found", "Location: http://intranet.example/secret")
    message = r"^http://site.example:\d+/cat.png leads to http://intranet.example/secret, which is"
    with pytest.raises(ImageError, match=message):
        open_image(f"http://site.example:{listener.port}/cat.png")


@pytest.fixture
def proxy(names, listener, monkeypatch):
    names["127.0.0.1"] = [["127.0.0.1"]]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listener.port}")
    listener.answer = answer("200 OK", "Content-Type: image/png", body=PNG)
    return listener


def test_proxy_may_be_private_but_its_target_not(names, proxy):
    names["site.example"], names["intranet.example"] = [[PUBLIC]], [["10.0.0.1"]]
    assert open_image("http://site.example/cat.png").size == (64, 48)
    with pytest.raises(ImageError, match=r"\(10\.0\.0\.1\)"):
        open_image("http://intranet.example/cat.png")
    assert [sent.split()[1] for sent in proxy.received] == [b"http://site.example/cat.png"]


def test_name_that_only_the_proxy_knows(names, proxy):
    with pytest.raises(
        ImageError, match="no computer named hidden.example.*only a proxy.*allow_private"
    ):
        open_image("http://hidden.example/cat.png")
    assert open_image("http://hidden.example/cat.png", allow_private=True).size == (64, 48)


def test_proxy_that_does_not_answer(names, monkeypatch):
    names["site.example"], names["127.0.0.1"] = [[PUBLIC]], [["127.0.0.1"]]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(ImageError, match="the proxy does not answer. Check HTTP_PROXY"):
        open_image("http://site.example/cat.png")
