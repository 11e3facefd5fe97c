"""The origin check of WebSockets: browsers let any page try to connect, and send the cookies of the host with it."""

from __future__ import annotations


def is_allowed(origin: str | None, host: str | None, allowed: tuple[str, ...]) -> bool:
    """Return whether a page may connect (RFC 6455, section 10.2).

    A program sends no origin and may connect. A page may connect if it was served by the host and port it connects to,
    or if its origin is in ``allowed``, where ``"*"`` means all. The check keeps foreign pages out of the browsers of
    authorized people. It does not authenticate people: use :class:`landline.SharedToken` for that.

    :param origin: the ``Origin`` header of the request.
    :param host: the ``Host`` header of the request.
    :param allowed: the origins that may connect in addition to those of the same host.
    """
    if origin is None or "*" in allowed or origin in allowed:
        return True
    return bool(host) and origin in {f"http://{host}", f"https://{host}"}
