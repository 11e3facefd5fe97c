"""The command line of landline.

Exit status: 0 all done, 1 some not, 2 wrong use, 3 the control server cannot be reached or went away,
130 stopped with Ctrl-C.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line with the arguments of this process, and exits."""
    try:
        import typer  # noqa: F401 - only to see whether it is there, before anything needs it
    except ModuleNotFoundError:
        sys.exit(_say("The command line needs more than the library; install landline[fleet].", 2))
    from landline.cli.command_line import build
    from landline.cli.exit_codes import CommandFailed

    try:
        build()()
    except CommandFailed as failed:
        sys.exit(_say(str(failed), failed.status))


def _say(sentence: str, status: int) -> int:
    sys.stderr.write(sentence + "\n")
    return status
