"""Why a server cannot be reached, as a sentence part that says what to do."""

from __future__ import annotations

import landline


def failure_reason(error: BaseException, url: str, *, has_token: bool) -> str:
    """Return why a connection to ``url`` failed, without the URL; for a policy that gave up, the last failure."""
    if isinstance(error, landline.GaveUp) and error.last is not None:
        error = error.last
    if isinstance(error, landline.Rejected) and error.code is landline.Code.UNAUTHENTICATED:
        problem = "the server does not accept this token" if has_token else "the server needs a token"
        return f"{problem}; give the right one with --token-file or LANDLINE_TOKEN"
    if isinstance(error.__cause__, ConnectionRefusedError):
        return (
            "no server listens at this address (connection refused); check the address, and start the server"
        )
    if isinstance(error.__cause__, FileNotFoundError):
        return "there is no such socket; check the path, and start the server"
    reason = str(error)
    # The error names the endpoint by the normal form of its URL.
    for prefix in (url, url if url.lower().startswith("mdns") else str(landline.parse_url(url))):
        reason = reason.removeprefix(f"{prefix}: ")
    return reason
