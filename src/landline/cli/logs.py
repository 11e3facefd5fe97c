"""What of the logs reaches the terminal."""

from __future__ import annotations

import logging
import sys
from typing import Final

_STRANGERS: Final = ("asyncio", "quic", "uvicorn.error")
"""Loggers of other libraries in which a peer can cause lines."""


def show_logs(*, attempts: bool = True) -> None:
    """Everything that happens, with its time, on standard error.

    Without ``attempts``, those to connect are left out: the command prints the states of its line itself.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    from landline import guarded_logger

    for name in _STRANGERS:
        guarded_logger(name)
    if not attempts:
        logging.getLogger("landline.client").setLevel(logging.ERROR)


def quiet_logs() -> None:
    """Nothing but errors: the command says what happens."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s", stream=sys.stderr)
