"""Which web pages may open a WebSocket: browsers let any page try, and send the cookies of our host with it."""

from __future__ import annotations


def is_allowed(origin: str | None, host: str | None, allowed: tuple[str, ...]) -> bool:
    """Whether a page may connect (RFC 6455, section 10.2).

    ``origin`` and ``host`` are the request's headers. A program names no origin, and may; a page may that was served by
    the very host and port it connects to, or has one of the origins in ``allowed``, where ``"*"`` stands for all. It
    keeps out pages of strangers in the browsers of people who may connect, not people: for them there is
    :class:`landline.SharedToken`.
    """
    if origin is None or "*" in allowed or origin in allowed:
        return True
    return bool(host) and origin in {f"http://{host}", f"https://{host}"}
