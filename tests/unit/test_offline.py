"""The tests cannot reach the network, and loopback works."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import network_guard
import pytest

OUTSIDE = ("192.0.2.1", 80)  # RFC 5737: an address for documentation, nobody's


def test_a_connection_is_refused_and_remembered(network_attempts):
    with pytest.raises(OSError, match="offline: no connection to 192.0.2.1 port 80"):
        socket.create_connection(OUTSIDE, timeout=5)
    assert network_attempts == ["connection to 192.0.2.1 port 80"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        with pytest.raises(OSError, match="offline"):
            datagrams.sendto(b"question", OUTSIDE)
    network_attempts.clear()


@pytest.mark.parametrize("look_up", ["getaddrinfo", "gethostbyname", "gethostbyname_ex"])
def test_a_look_up_is_refused(network_attempts, look_up):
    with pytest.raises(socket.gaierror, match="offline: no look-up of example.org"):
        getattr(socket, look_up)(*["example.org", 80][: 1 + (look_up == "getaddrinfo")])
    network_attempts.clear()


def test_a_child_process_is_offline_too_and_has_caches_of_its_own():
    command = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    child = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert "the tests run offline" in child.stderr, child.stderr
    assert os.environ["HF_HUB_OFFLINE"] == "1" and "llava_nb-tests-" in os.environ["HF_HOME"]


@pytest.mark.parametrize(
    ("host", "local"),
    [*((here, True) for here in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "", None)),
     *((out, False) for out in ("10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", b"a.org"))],
)  # fmt: skip
def test_what_is_local(host, local):
    assert network_guard.is_local(host) == local
