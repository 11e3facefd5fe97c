"""Run the coroutine of a command, and turn expected errors into one sentence and an exit status."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from landline.cli.exit_codes import INTERRUPTED, NO_SERVER, SOME_NOT_DONE, CommandFailed, WrongUse, sentence

_EXPECTED: Final = {
    "landline.fleet.agent.agent": "AgentRefused",
    "landline.fleet.agent.journal_file": "JournalError",
    "landline.fleet.agent.power": "PowerError",
    "landline.fleet.demo.demo": "DemoFailed",
    "landline.fleet.paths": "UnsafePath",
    "landline.fleet.api": "StorageError",
    "landline.fleet.web.listeners": "CannotListen",
}
"""Errors of the fleet whose text is a complete sentence, by the module that defines them."""


def run_command(main: Coroutine[Any, Any, int], *, interrupted: int = INTERRUPTED) -> int:
    """Run ``main`` and return its exit status, or ``interrupted`` after Ctrl-C.

    :raises CommandFailed: for an error that is expected: wrong use, no server, or the system's refusal.
    """
    import asyncio

    import landline

    try:
        return landline.run(main)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return interrupted
    except (landline.ConfigurationError, landline.MissingExtra) as error:
        raise WrongUse(sentence(str(error))) from error
    except landline.Rejected as error:
        advice = "; give the right one with --token-file or LANDLINE_TOKEN"
        is_token_problem = error.code is landline.Code.UNAUTHENTICATED
        raise CommandFailed(
            sentence(f"the server refused the connection: {error.reason}" + advice * is_token_problem),
            SOME_NOT_DONE,
        ) from error
    except (landline.ConnectFailed, landline.ProtocolError) as error:
        raise CommandFailed(sentence(str(error)), NO_SERVER) from error
    except OSError as error:
        raise CommandFailed(sentence(_system_error(error)), SOME_NOT_DONE) from error
    except Exception as error:
        if not isinstance(error, (landline.LandlineError, *_expected_errors())):
            raise
        raise CommandFailed(sentence(str(error)), SOME_NOT_DONE) from error


@contextlib.contextmanager
def needs_fleet(command: str) -> Iterator[None]:
    """Import the fleet's modules inside. A missing package becomes a sentence that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "landline").partition(".")[0]
        if package == "landline":
            raise
        raise WrongUse(
            f"'landline {command}' needs the fleet, which is not installed ({package} is missing); install it with: "
            "pip install 'landline[fleet]'"
        ) from error


def _expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors of modules that are loaded. An agent must not load the database and the web server to fail."""
    return tuple(
        getattr(sys.modules[module], name) for module, name in _EXPECTED.items() if module in sys.modules
    )


def _system_error(error: OSError) -> str:
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{error.filename} cannot be used: {reason.lower()}"
