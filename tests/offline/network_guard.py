"""Keeps the tests and the notebooks off the network.

It stands before Python's sockets and name look-ups, in this process (`install`) and, through
`sitecustomize.py` beside this file, in every Python started from it (`offline_environment`), the
notebooks' kernels among them. Loopback and Unix sockets work. What is refused looks to the code
under test like a machine without a network, and is kept in `attempts`. Libraries that bring their
own network code go past it; HF_HUB_OFFLINE keeps the one such library used here (hf_xet) quiet.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path

# What was refused, oldest first: tests/conftest.py fails a test that left something here.
attempts: list[str] = []


def offline_environment(folder: Path) -> dict[str, str]:
    """Variables that put the guard into child processes, and their caches into `folder`."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "huggingface"),
        "IPYTHONDIR": str(folder / "ipython"),
    }


def is_local(host: str | bytes | None) -> bool:
    """Whether `host` is this machine, told without a look-up."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name.lower() in ("localhost", socket.gethostname().lower()):
        return True
    address = numeric(name)
    address = getattr(address, "ipv4_mapped", None) or address
    return address is not None and (address.is_loopback or address.is_unspecified)


def numeric(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `name` spells out, or None if it is a name to look up."""
    try:
        return ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return None


def refuse_address(address: object) -> None:
    """Raises what a machine without a network raises, unless `address` is on this machine."""
    if isinstance(address, tuple) and not is_local(address[0]):
        attempts.append(f"connection to {address[0]} port {address[1]}")
        raise OSError(errno.ENETUNREACH, f"the tests run offline: no {attempts[-1]}")


def refuse_name(host: str | bytes | None, *, reverse: bool = False) -> None:
    """The same for a look-up; a numeric address needs one only in reverse."""
    name = host.decode() if isinstance(host, bytes) else host
    if not is_local(name) and (reverse or numeric(name) is None):
        attempts.append(f"look-up of {name}")
        raise socket.gaierror(socket.EAI_AGAIN, f"the tests run offline: no {attempts[-1]}")


def install() -> None:
    """Puts the guard in front of Python's socket module; a second call changes nothing."""
    if hasattr(socket, "llava_nb_guard"):
        return
    socket.llava_nb_guard = True

    def guard(owner: object, name: str, check: Callable[[tuple], None]) -> None:
        real = getattr(owner, name)

        def guarded(*arguments: object, **options: object) -> object:
            check(arguments or (options.get("host"),))
            return real(*arguments, **options)

        setattr(owner, name, guarded)

    for method in ("connect", "connect_ex", "sendto"):
        guard(socket.socket, method, lambda given: refuse_address(given[-1]))
    for look_up in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        guard(socket, look_up, lambda given: refuse_name(given[0]))
    guard(socket, "gethostbyaddr", lambda given: refuse_name(given[0], reverse=True))
