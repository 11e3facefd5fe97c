"""The command line of landline.

Exit status: 0 everything was done, 1 something was not, 2 wrong use, 3 no server can be reached, 130 stopped with
Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main() -> None:
    """Run the command line with the arguments of this process, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status. Errors that are expected go to standard error as one sentence.

    :raises SystemExit: when the command ends in its own way: SIGTERM (143), or a pipe that its reader closed (1).
    """
    try:
        import click
    except ModuleNotFoundError:
        return _fail("The command line is not installed; install it with: pip install 'landline[cli]'", 2)
    from landline.cli.command_line import command_line
    from landline.cli.exit_codes import ALL_DONE, INTERRUPTED, CommandFailed

    try:
        status = command_line.main(list(arguments), prog_name="landline", standalone_mode=False)
    except CommandFailed as failure:
        return _fail(str(failure), failure.status)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # Click's name for Ctrl-C.
        return INTERRUPTED
    return ALL_DONE if status is None else int(status)


def _fail(sentence: str, status: int) -> int:
    sys.stderr.write(sentence + "\n")
    return status
