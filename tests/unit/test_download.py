"""open_image() on addresses: a server that behaves and misbehaves, and private networks."""

from __future__ import annotations

import gzip
import re
import shutil
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llava_nb import ImageError, example_picture, open_image
from llava_nb.download import is_public, shown

PNG = example_picture().read_bytes()
SIZE = open_image(PNG).size
HTML = b"<!doctype html><title>Cats</title>"
TYPES = {"Content-Type": "image/png"}
ZIPPED = TYPES | {"Content-Encoding": "gzip"}
STATUSES = {
    404: "answered 404 Not Found. Nothing is at that address.*copy it again",
    401: "401.*sign-in",
    403: "403 Forbidden. The site does not give it to programs.*save the picture",
    410: "410.*another address",
    418: "418.*save the picture",
    429: "429.*wait some minutes",
    500: "500.*fault is the site's: try again later",
    204: "answered 204",
    304: "answered 304",
}
NO_PICTURES = {  # path: status, headers, body, what is said of it
    "/page": (200, {"Content-Type": "text/html"}, HTML, "web page, not a picture: open it"),
    "/odd-page": (200, {"Content-Type": "text/html; charset=x"}, b"<p>", "is a web page"),
    "/drawing": (200, {"Content-Type": "image/svg+xml"}, b"<svg/>", "SVG drawing.*convert it"),
    "/table": (200, {"Content-Type": "x/parquet"}, bytes(range(128, 200)), "sent as x/parquet"),
    "/half": (200, TYPES, PNG[: len(PNG) // 2], "cut off or damaged.*again"),
    "/broken": (200, {"Content-Length": "99999"}, PNG, r"broke off \(.*more expected.*Try again"),
    "/bad-gzip": (200, ZIPPED, PNG, "the transfer broke off"),
    "/bad-chunk": (200, {"Transfer-Encoding": "chunked"}, b"zz\r\n", "the transfer broke off"),
    "/nothing": (200, TYPES, b"", "sent 0 bytes.*save the picture"),
    "/double": (200, {"Content-Encoding": "gzip, gzip"}, PNG, "compressed as gzip, gzip"),
    "/loop": (302, {"Location": "/loop"}, b"", "more than 5 times.*address of the picture itself"),
    "/to-ftp": (302, {"Location": "ftp://a.org/b"}, b"", "to ftp://a.org/b; only http and https"),
    **{f"/{code}": (code, {}, HTML, message) for code, message in STATUSES.items()},
}
ANSWERS = {path: answer[:3] for path, answer in NO_PICTURES.items()} | {
    "/cat.png": (200, TYPES, PNG),
    "/zipped": (200, ZIPPED, gzip.compress(PNG)),
    "/bomb": (200, ZIPPED, gzip.compress(bytes(3 * 2**20))),
    "/large": (200, TYPES | {"Content-Length": "99999999"}, b""),
    "/hop": (302, {"Location": "/cat.png", "Set-Cookie": "a=1"}, b""),
    "/inside": (302, {"Location": "http://intranet.example/secret"}, b""),
    "/unicode": (301, {"Location": "/k\u00c3\u00a4se.png"}, b""),  # UTF-8 bytes, as Latin-1
    "/k%C3%A4se.png": (200, TYPES, PNG),
    "http://hidden.example/cat.png": (200, TYPES, PNG),  # what a proxy is asked
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.seen.append((path, dict(self.headers)))
        if path in self.server.trickles:
            return self.server.trickles[path](self)
        code, headers, body = ANSWERS[path]
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for spelled in (name, name.upper()):
            monkeypatch.delenv(spelled, raising=False)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen, server.trickles = [], {}
        server.handle_error = lambda *details: None
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fetch(server, path, **options):
    return open_image(server.url + path, **{"allow_private": True, "timeout": 10} | options)


@pytest.mark.parametrize("path", ["/cat.png", "/cat.png?a=b#c", "/hop", "/unicode", "/zipped"])
def test_picture_arrives(server, path):
    assert fetch(server, path).size == SIZE
    pasted = f" {server.url.replace('http', 'HTTP')}{path}\n"
    assert open_image(pasted, allow_private=True).size == SIZE


def test_number_of_redirects_is_a_limit(server):
    assert fetch(server, "/hop", max_redirects=1).size == SIZE
    with pytest.raises(ImageError, match="more than 0 times"):
        fetch(server, "/hop", max_redirects=0)


def test_request_says_who_asks_with_a_contact_and_carries_no_secrets(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fetch(server, "/hop")
    assert [path for path, _ in server.seen] == ["/hop", "/cat.png"]
    for _, headers in server.seen:
        assert re.fullmatch(r"llava_nb/\S+ \(https://\S+\)", headers["User-Agent"])
        assert not {"Authorization", "Cookie"} & set(headers)


@pytest.mark.parametrize("path", NO_PICTURES)
def test_answer_that_is_no_picture(server, path):
    with pytest.raises(ImageError, match=f"^{server.url}.*{NO_PICTURES[path][3]}"):
        fetch(server, path)


@pytest.mark.parametrize("path", ["/large", "/bomb", "/endless"])
def test_size_limit_counts_what_arrives(server, path):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while not handler.wfile.closed:
            handler.wfile.write(bytes(2**16))  # ends when the other side hangs up

    server.trickles["/endless"] = endless
    with pytest.raises(ImageError, match=r"larger than the limit of 1\.0 MiB.*max_bytes="):
        fetch(server, path, max_bytes=2**20)


@pytest.mark.parametrize("begins", [b"", b"HTTP/1.0 200 OK\r\n\r\n"])
def test_time_limit_covers_the_whole_transfer(server, begins):
    gone = threading.Event()

    def trickle(handler):
        handler.wfile.write(begins)
        handler.connection.settimeout(0.05)
        while not gone.is_set():
            try:
                if begins:
                    handler.wfile.write(b"x")
                if not handler.connection.recv(1):
                    gone.set()
            except TimeoutError:
                continue
            except OSError:
                gone.set()

    server.trickles["/slow"] = trickle
    with pytest.raises(ImageError, match=r"did not arrive within 0\.4 seconds.*timeout=1\.2"):
        fetch(server, "/slow", timeout=0.4)
    assert gone.wait(20), "the connection was left open"


def test_connection_refused_or_without_tls(server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/cat.png"
    with pytest.raises(ImageError, match="connection refused. Check the host and port"):
        open_image(url, allow_private=True)
    with pytest.raises(ImageError, match="no secure connection.*save the picture"):
        open_image(server.url.replace("http", "https") + "/cat.png", allow_private=True)


@pytest.mark.parametrize(
    "url", ["http://", "http:cat.png", "https://[::1/a", "http://a:b/c", "https://\ud800/"]
)
def test_malformed_address(url):
    with pytest.raises(ImageError, match="not a complete http.* address: copy it again"):
        open_image(url)


@pytest.mark.parametrize(
    ("url", "told"),
    [("http://me:secret@a.example/b?c=secret#secret", "http://a.example/b?..."),
     ("http://a.example/@me/b.png", "http://a.example/@me/b.png"),
     ("http://a.example\\@127.0.0.1/b", r"http://a.example\@127.0.0.1/b"),
     ("http://a.example/\x1b[2J", r"http://a.example/\x1b[2J")],
)  # fmt: skip
def test_address_in_a_message(url, told):
    assert shown(url) == told


def test_certificate_is_checked(server, tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("no openssl here to make a certificate with")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=x"
    command = [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = server.url.replace("http", "https")
    with pytest.raises(ImageError, match="no secure connection.*CERTIFICATE_VERIFY_FAILED"):
        fetch(server, "/cat.png")
    assert server.seen == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert"))
    assert fetch(server, "/hop").size == SIZE


# Private networks.


PRIVATE = """
    127.0.0.1 127.9.9.9 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200
    0.0.0.0 224.0.0.1 240.0.0.1 255.255.255.255 192.0.0.192 192.0.2.1 198.18.0.1 203.0.113.1
    :: ::1 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 fec0::1 ff02::1 ff0e::1 2001:db8::1 100::1
    2001::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::7f00:1
    64:ff9b::a9fe:a9fe 64:ff9b:1::808:808 2002:7f00:1:: 2002:a00:1::1
"""
PUBLIC = "8.8.8.8 172.32.0.1 100.128.0.1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808"


@pytest.mark.parametrize("address", [*PRIVATE.split(), *PUBLIC.split()])
def test_private_and_public_addresses(address):
    assert is_public(address) == (address in PUBLIC.split())


@pytest.fixture
def names(monkeypatch):
    """A name server: host -> its addresses."""
    known = {"127.0.0.1": ["127.0.0.1"]}

    def getaddrinfo(host, port, *args, **options):
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port or 0)) for ip in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_private_name_is_refused_without_a_connection(names, server, scheme):
    names["intranet.example"] = ["93.184.215.14", "127.0.0.1"]
    message = r"private network or this machine \(127.0.0.1\).*allow_private=True"
    with pytest.raises(ImageError, match=message):
        open_image(f"{scheme}://intranet.example:{server.server_port}/cat.png")
    assert server.seen == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"])
def test_spellings_of_this_machine(host):
    with pytest.raises(ImageError, match=r"/cat.png is inside a private network or this machine"):
        open_image(f"http://example.org@{host}/cat.png")


def test_redirect_to_a_private_address(names, server, monkeypatch):
    names["site.example"], names["intranet.example"] = ["127.0.0.1"], ["192.168.1.1"]
    monkeypatch.setattr("llava_nb.download.is_public", lambda address: address == "127.0.0.1")
    message = r"^http://site.example:\d+/inside leads to http://intranet.example/secret, which is"
    with pytest.raises(ImageError, match=message):
        open_image(f"http://site.example:{server.server_port}/inside")


def test_name_that_nobody_or_only_a_proxy_knows(names, server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    url = "http://hidden.example/cat.png"
    with pytest.raises(ImageError, match="no computer named hidden.example was found.*a proxy"):
        open_image(url)
    assert open_image(url, allow_private=True).size == SIZE
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(ImageError, match="the proxy does not answer. Check HTTP_PROXY"):
        open_image(url, allow_private=True)
