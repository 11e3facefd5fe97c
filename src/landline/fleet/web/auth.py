"""Authentication of requests over TCP: a bearer token, and no requests from pages of other sites. Pure.

Any page can make the browser send requests to an address of this machine. Such a request carries a foreign ``Origin``
or, if the page's own name was pointed at this machine (DNS rebinding), a foreign name as ``Host``.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Set
from ipaddress import ip_address
from urllib.parse import urlsplit

from landline.fleet.web.errors import RequestRefused

Headers = Iterable[tuple[bytes, bytes]]


def refusal(headers: Headers, *, token: str, allowed_hosts: Set[str]) -> RequestRefused | None:
    """Return why a request with these headers (names in lower case) is refused, or ``None`` if it is admitted."""
    pairs = list(headers)
    hosts, origins = _values(pairs, b"host"), _values(pairs, b"origin")
    if len(hosts) != 1 or not is_allowed_host(hosts[0], allowed_hosts):
        return RequestRefused(
            403,
            "foreign_host",
            "The server does not answer requests under this host name; use its IP address, or allow the name.",
        )
    if any(origin not in {f"http://{hosts[0]}", f"https://{hosts[0]}"} for origin in origins):
        return RequestRefused(
            403,
            "foreign_origin",
            "The server does not answer requests from pages of other sites; open its own address.",
        )
    if not is_bearer(_values(pairs, b"authorization"), token):
        return RequestRefused(
            401, "unauthorized", "A token is missing or wrong; send the header 'Authorization: Bearer TOKEN'."
        )
    return None


def is_allowed_host(host: str, allowed_hosts: Set[str]) -> bool:
    """Return whether a ``Host`` header names this server: an IP address, ``localhost``, or one of ``allowed_hosts``.

    Addresses are always allowed: DNS rebinding works only with names.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in allowed_hosts:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_bearer(authorizations: list[str], token: str) -> bool:
    """Return whether the only ``Authorization`` header carries ``token``. The comparison takes constant time."""
    if len(authorizations) != 1:
        return False
    scheme, _, given = authorizations[0].partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def _values(pairs: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in pairs if key == name]
