"""Host names: in one form, and which of them are this machine."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Final
from urllib.parse import urlsplit

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._~-]+))(?::[0-9]{0,5})?")


def host_name(authority: str) -> str:
    """Return the host of ``host[:port]`` in one form: lower case, no port, no brackets, no trailing dot.

    IPv6 addresses stand in brackets, as in a URL and in the ``Host`` header. Raises ValueError for what is no host.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError(f"{authority[:100]!r} is no host name")
    if match[1] is not None:
        try:
            return IPv6Address(match[1]).compressed
        except AddressValueError as error:
            raise ValueError(f"{authority[:100]!r} is no IPv6 address: {error}") from error
    name = match[2].lower().removesuffix(".")
    if not name:
        raise ValueError(f"{authority[:100]!r} is no host name")
    return name


def bare_host_name(name: str) -> str:
    """As :func:`host_name`, of a name without a port; IPv6 addresses may stand without brackets."""
    return host_name(f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name)


def is_loopback(name: str) -> bool:
    """Whether the host (as :func:`host_name` returns it) is this machine: localhost, 127.0.0.0/8 or ::1."""
    if name == "localhost":
        return True
    for address in (IPv4Address, IPv6Address):
        try:
            return address(name).is_loopback
        except AddressValueError:
            pass
    return False


def httpx_options(url: str) -> dict[str, Any]:
    """Return the arguments of an httpx client of ``url`` by which requests to this machine go through no proxy.

    Requests to other hosts go as ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` say.
    """
    parts = urlsplit(url)
    if not is_loopback((parts.hostname or "").removesuffix(".")):
        return {}
    if parts.scheme != "https":
        return {"trust_env": False}
    import httpx

    # without the environment httpx would not see SSL_CERT_FILE either
    return {"trust_env": False, "verify": httpx.create_ssl_context()}
