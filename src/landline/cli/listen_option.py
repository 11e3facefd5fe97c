"""What commands that serve can listen on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from landline.cli.exit_codes import WrongUse
from landline.cli.terminal_text import printable

if TYPE_CHECKING:
    from landline import Endpoint


def listen_endpoint(text: str, command: str) -> Endpoint:
    """The endpoint of ``--listen``.

    Raises :class:`landline.ConfigurationError` for what is no URL of a server, and
    :class:`landline.cli.exit_codes.WrongUse`
    for one that ``command`` cannot listen on: it has no certificate, and needs lines.
    """
    import landline

    endpoint = landline.parse_url(text)
    if endpoint.is_connectionless:
        raise WrongUse(
            f"--listen {printable(text)} would take single calls only, and {command!r} needs lines; "
            "use for example tcp://."
        )
    if endpoint.is_encrypted:
        raise WrongUse(
            f"--listen {endpoint.scheme}:// needs a certificate, which {command!r} cannot take yet; "
            "use tcp:// on a network you trust."
        )
    return endpoint
