"""The tests cannot reach the network, and loopback works."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import network_guard
import pytest

OUTSIDE = ("192.0.2.1", 80)  # RFC 5737: an address for documentation, nobody's


def test_connection_is_refused_and_remembered(network_attempts):
    with pytest.raises(OSError, match="offline: no connection to 192.0.2.1 port 80"):
        socket.create_connection(OUTSIDE, timeout=5)
    assert network_attempts == ["connection to 192.0.2.1 port 80"]
    network_attempts.clear()


@pytest.mark.parametrize("look_up", ["getaddrinfo", "gethostbyname", "gethostbyname_ex"])
def test_look_up_is_refused(network_attempts, look_up):
    arguments = ("example.org", 80) if look_up == "getaddrinfo" else ("example.org",)
    with pytest.raises(socket.gaierror, match="offline: no look-up of example.org"):
        getattr(socket, look_up)(*arguments)
    network_attempts.clear()


def test_datagram_is_refused(network_attempts):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        with pytest.raises(OSError, match="offline"):
            datagrams.sendto(b"question", OUTSIDE)
    network_attempts.clear()


def test_library_sees_a_machine_without_a_network(network_attempts):
    with pytest.raises(urllib.error.URLError, match="offline: no look-up of example.org"):
        urllib.request.urlopen("https://example.org", timeout=5)
    network_attempts.clear()


def test_child_process_is_offline_too():
    command = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    child = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert "the tests run offline" in child.stderr, child.stderr


def test_loopback_works():
    class Hello(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"http://localhost:{server.server_port}"
        assert urllib.request.urlopen(address, timeout=5).read() == b"hello"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "", None])
def test_local(host):
    assert network_guard.is_local(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", b"example.org"])
def test_not_local(host):
    assert not network_guard.is_local(host)


def test_caches_are_temporary():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert "llava_nb-tests-" in os.environ["HF_HOME"]
