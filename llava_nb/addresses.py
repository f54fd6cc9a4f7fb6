"""Which network addresses are public, and seeing each connection before it is used.

Covered: private, loopback, link-local, reserved and multicast addresses, also as IPv4 inside IPv6;
an adapter for requests that shows a new connection to its owner before any byte is sent.
Not covered: what is done about an address (remote.py).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_PROTOCOL_ASSIGNMENTS = ipaddress.ip_network("192.0.0.0/24")  # partly "global" in older Pythons


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet.

    An IPv6 address that carries an IPv4 address (IPv4-mapped, RFC 4291; NAT64, RFC 6052; 6to4,
    RFC 3056) is judged by that one. The rest follows the IANA special-purpose registries as the
    ipaddress module has them, without multicast.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(str(carried))
        if ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast and ip not in _PROTOCOL_ASSIGNMENTS


class WatchedAdapter(HTTPAdapter):
    """requests' adapter that shows each new connection to `connected` before it is used.

    Of a proxy that is the connection to the proxy. SOCKS proxies are left alone: they need
    connection classes of their own.
    """

    def __init__(self, connected: Callable[[socket.socket], None]) -> None:
        self.watched_pools = {
            "http": _watched(HTTPConnectionPool, HTTPConnection, connected),
            "https": _watched(HTTPSConnectionPool, HTTPSConnection, connected),
        }
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self.watched_pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make the pools of connections through `proxy`."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self.watched_pools
        return manager


def _watched(pool: type, connection: type, connected: Callable[[socket.socket], None]) -> type:
    class WatchedConnection(connection):
        def _new_conn(self) -> socket.socket:
            new = super()._new_conn()
            try:
                connected(new)
            except BaseException:
                new.close()
                raise
            return new

    return type("WatchedPool", (pool,), {"ConnectionCls": WatchedConnection})
