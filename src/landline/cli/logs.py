"""What of the logs reaches the terminal."""

from __future__ import annotations

import logging
import sys


def show_logs(*, lines: bool = True) -> None:
    """Everything that happens, with its time, on standard error.

    Without ``lines``, what a line says of its attempts to connect is left out: the command prints its states itself.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    if not lines:
        logging.getLogger("landline").setLevel(logging.ERROR)
        logging.getLogger("landline.agent").setLevel(logging.INFO)
        logging.getLogger("landline.fleet").setLevel(logging.INFO)


def quiet_logs() -> None:
    """Nothing but errors: the command says what happens."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s", stream=sys.stderr)
