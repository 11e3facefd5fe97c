"""Handlers for names that the library reserves, for peers that send the library's own messages by hand."""

from collections.abc import Callable
from typing import Any

import landline


def handle_reserved(
    owner: landline.Server | landline.Connector, name: str, function: Callable[..., Any], body_type: Any
) -> None:
    """Register a handler that the public ``on()`` refuses."""
    owner._host.handlers.reserve(name, function, body_type)
