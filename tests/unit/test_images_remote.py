"""open_image() on addresses: a loopback server that behaves and misbehaves."""

from __future__ import annotations

import gzip
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from picture_samples import JPEG, PNG

from llava_nb.download import shown
from llava_nb.errors import ImageError
from llava_nb.images import open_image

HTML = b"<!doctype html><title>Cats</title>"
TYPES = {"Content-Type": "image/png"}
ANSWERS = {
    "/cat.png": (200, TYPES, PNG),
    "/zipped": (200, TYPES | {"Content-Encoding": "gzip"}, gzip.compress(PNG)),
    "/bomb": (200, TYPES | {"Content-Encoding": "gzip"}, gzip.compress(bytes(3 * 2**20))),
    "/double": (200, TYPES | {"Content-Encoding": "gzip, gzip"}, PNG),
    "/page": (200, {"Content-Type": "text/html"}, HTML),
    "/odd-page": (200, {"Content-Type": "text/html; charset=utf-8"}, b"<div>Cats</div>"),
    "/drawing": (200, {"Content-Type": "image/svg+xml"}, b"<svg xmlns='http://w3.org'/>"),
    "/table": (200, {"Content-Type": "application/x-parquet"}, bytes(range(128, 200))),
    "/half.jpg": (200, TYPES, JPEG[: len(JPEG) // 2]),
    "/broken-off": (200, TYPES | {"Content-Length": "99999"}, PNG),
    "/large": (200, TYPES | {"Content-Length": "99999999"}, b""),
    "/bad-gzip": (200, TYPES | {"Content-Encoding": "gzip"}, PNG),
    "/bad-chunk": (200, TYPES | {"Transfer-Encoding": "chunked"}, b"zz\r\n" + PNG),
    "/nothing": (200, TYPES, b""),
    "/hop": (302, {"Location": "/cat.png", "Set-Cookie": "a=1"}, b""),
    "/loop": (302, {"Location": "/loop"}, b""),
    "/to-ftp": (302, {"Location": "ftp://example.org/cat.png"}, b""),
    "/unicode": (301, {"Location": "/k\u00c3\u00a4se.png"}, b""),  # UTF-8 bytes, as Latin-1
    "/k%C3%A4se.png": (200, TYPES, PNG),
    **{f"/{code}": (code, {}, HTML) for code in (204, 304, 401, 403, 404, 410, 418, 429, 500)},
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


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen, server.trickles = [], {}
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fetch(server, path, **options):
    return open_image(server.url + path, **{"allow_private": True, "timeout": 10} | options)


@pytest.mark.parametrize("path", ["/cat.png", "/cat.png?a=b#c", "/hop", "/unicode", "/zipped"])
def test_picture_arrives(server, path):
    assert fetch(server, path).size == (64, 48)


def test_address_is_read_as_people_paste_it(server):
    url = f" {server.url.replace('http', 'HTTP')}/cat.png\n"
    assert open_image(url, allow_private=True).size == (64, 48)


def test_request_says_who_asks_and_carries_no_secrets(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fetch(server, "/hop")
    paths = [path for path, _ in server.seen]
    assert paths == ["/hop", "/cat.png"]
    for _, headers in server.seen:
        assert re.fullmatch(r"llava_nb/\S+ \(https://\S+\)", headers["User-Agent"])
        assert not {"Authorization", "Cookie"} & set(headers)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/page", "is a web page, not a picture: open it in a browser, right-click the picture"),
        ("/odd-page", "is a web page, not a picture"),
        ("/drawing", "SVG drawing.*convert it to PNG"),
        ("/table", "not a picture .*sent as application/x-parquet"),
        ("/half.jpg", "cut off or damaged.*again"),
        ("/broken-off", r"the transfer broke off \(.*more expected.*Try again"),
        ("/bad-gzip", "the transfer broke off"),
        ("/bad-chunk", "the transfer broke off"),
        ("/nothing", "sent 0 bytes.*save the picture"),
        ("/double", "compressed as gzip, gzip"),
        ("/loop", "more than 5 times.*address of the picture itself"),
        ("/to-ftp", "leads to ftp://example.org/cat.png; only http and https are followed"),
        ("/404", "answered 404 Not Found. Nothing is at that address.*copy it again"),
        ("/401", "401.*sign-in"),
        ("/403", "403 Forbidden. The site does not give it to programs.*save the picture"),
        ("/410", "410.*another address"),
        ("/418", "418.*save the picture"),
        ("/429", "429.*wait some minutes"),
        ("/500", "500.*fault is the site's: try again later"),
        ("/204", "answered 204"),
        ("/304", "answered 304"),
    ],
)
def test_answer_that_is_no_picture(server, path, message):
    with pytest.raises(ImageError, match=f"^{server.url}.*{message}"):
        fetch(server, path)


def test_number_of_redirects_is_a_limit(server):
    assert fetch(server, "/hop", max_redirects=1).size == (64, 48)
    with pytest.raises(ImageError, match="more than 0 times"):
        fetch(server, "/hop", max_redirects=0)


@pytest.mark.parametrize("path", ["/large", "/bomb", "/endless"])
def test_size_limit_counts_what_arrives(server, path):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while not handler.wfile.closed:
            handler.wfile.write(bytes(2**16))  # ends when the other side hangs up

    server.trickles["/endless"] = endless
    server.handle_error = lambda *details: None
    with pytest.raises(ImageError, match=r"larger than the limit of 1\.0 MiB.*max_bytes="):
        fetch(server, path, max_bytes=2**20)


@pytest.mark.parametrize("proxied", [False, True])
def test_time_limit_covers_the_whole_transfer(server, monkeypatch, proxied):
    gone = threading.Event()

    def trickle(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        try:
            for _ in range(600):
                handler.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            gone.set()

    server.trickles["/slow"] = server.trickles["http://a.example/slow"] = trickle
    if proxied:
        monkeypatch.setenv("http_proxy", server.url)
    url = "http://a.example/slow" if proxied else server.url + "/slow"
    with pytest.raises(ImageError, match=r"did not arrive within 0\.4 seconds.*timeout=1\.2"):
        open_image(url, timeout=0.4, allow_private=True)
    assert gone.wait(20), "the connection was left open"


def test_connection_refused():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/cat.png"
    with pytest.raises(ImageError, match="connection refused. Check the host and port"):
        open_image(url, allow_private=True)


@pytest.mark.parametrize("url", ["http://", "http:cat.png", "https://[::1/a", "http://a:b/c"])
def test_malformed_address(url):
    with pytest.raises(ImageError, match="not a complete http.* address: copy it again"):
        open_image(url)


def test_server_that_speaks_no_tls(server):
    with pytest.raises(ImageError, match="no secure connection.*save the picture"):
        open_image(server.url.replace("http", "https") + "/cat.png", allow_private=True)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://me:secret@a.example/b?c=secret#secret", "http://a.example/b?..."),
        ("http://a.example/@me/b.png", "http://a.example/@me/b.png"),
        ("http://a.example\\@127.0.0.1/b", r"http://a.example\@127.0.0.1/b"),
        ("http://a.example/\x1b[2J", r"http://a.example/\x1b[2J"),
    ],
)
def test_address_in_a_message(url, told):
    assert shown(url) == told


@pytest.fixture
def tls_server(server, tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("no openssl here to make a certificate with")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=x"
    command = [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *details: None
    server.url, server.certificate = server.url.replace("http", "https"), tmp_path / "cert"
    return server


def test_picture_over_https(tls_server, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls_server.certificate))
    assert fetch(tls_server, "/hop").size == (64, 48)


def test_certificate_that_nobody_vouches_for(tls_server):
    with pytest.raises(ImageError, match="no secure connection.*CERTIFICATE_VERIFY_FAILED"):
        fetch(tls_server, "/cat.png")
    assert tls_server.seen == []
