"""Commands that transfer files: ``send-file`` and ``receive-files``."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from landline.cli.command_runner import run_command
from landline.cli.exit_codes import ALL_DONE, SOME_NOT_DONE, CommandFailed, WrongUse, sentence
from landline.cli.log_output import quiet_logs
from landline.cli.parameter_types import NonEmptyPath
from landline.cli.shared_options import listen_endpoint, read_shared_token, token_option
from landline.cli.terminal_text import printable

if TYPE_CHECKING:
    import landline

ATTEMPTS_MAX: Final = 20
"""Attempts to connect in a row, a few minutes in all. Then the file is not sent."""


@click.command("send-file")
@click.argument("url", metavar="URL", help="The receiver, such as tcp://host:5463.")
@click.argument("path", metavar="PATH", type=NonEmptyPath(), help="The file.")
@click.option("--name", metavar="NAME", help="The file's name at the receiver. Default: its own name.")
@click.option(
    "--to",
    metavar="LABEL",
    default="",
    help="Which directory of the receiver: the label it gave with its own --to.",
)
@token_option
def send_file(url: str, path: Path, name: str | None, to: str, token_file: str | None) -> int:
    """Send a file to a machine that runs 'landline receive-files'.

    After an interruption, the same command sends only what is missing.
    """
    quiet_logs()
    return run_command(_send(url, path, name, to, read_shared_token(token_file)))


@click.command("receive-files")
@click.argument("directory", metavar="DIR", type=NonEmptyPath(), help="Where the files are stored.")
@click.option(
    "--listen",
    metavar="URL",
    default="tcp://127.0.0.1:5463",
    show_default=True,
    help="Where senders connect. Senders on other machines need a token.",
)
@click.option(
    "--to", metavar="LABEL", default="", help="Receive only files that are sent with the same --to."
)
@click.option("--overwrite", is_flag=True, help="Replace files of the same name.")
@token_option
def receive_files(directory: Path, listen: str, to: str, overwrite: bool, token_file: str | None) -> int:
    """Receive files into a directory until Ctrl-C or SIGTERM."""
    quiet_logs()
    return run_command(_receive(directory, listen, to, read_shared_token(token_file), overwrite=overwrite))


async def _send(url: str, path: Path, name: str | None, to: str, token: str | None) -> int:
    import landline
    from landline.cli.file_progress import show_progress

    # Before connecting: a file that cannot be read is an error at once.
    if not stat.S_ISREG(path.stat().st_mode):
        raise WrongUse(f"{path} is not a regular file; only regular files can be sent.")
    path.open("rb").close()
    async with landline.connect(
        url,
        auth=landline.SharedToken(token) if token else None,
        connect_timeout_s=None,  # The backoff limits the attempts.
        backoff=landline.Backoff(attempts=ATTEMPTS_MAX),
        on_state=_print_state,
    ) as line:
        try:
            with show_progress(sys.stderr) as bars:
                receipt = await line.send_file(path, name=name, to=to, progress=bars.bar(name or path.name))
        except (landline.LineClosed, landline.ConnectFailed) as error:
            # The file may be complete: only the receipt may have been lost.
            raise CommandFailed(
                f"{sentence(str(error))} {printable(path.name)!r} may have arrived, whole or in part; "
                "the same command again sends only what is missing.",
                SOME_NOT_DONE,
            ) from error
        sys.stdout.write(f"{printable(receipt.name)}: {_summary(receipt)}.\n")
    return ALL_DONE


async def _receive(directory: Path, listen: str, to: str, token: str | None, *, overwrite: bool) -> int:
    import asyncio
    import signal

    import landline
    from landline.cli.file_progress import show_progress

    endpoint = listen_endpoint(listen, "receive-files")
    if token is None and endpoint.scheme != "unix" and endpoint.host not in ("127.0.0.1", "::1", "localhost"):
        raise WrongUse(
            f"--listen {printable(listen)} accepts files from other machines; give --token-file or set LANDLINE_TOKEN."
        )
    server = landline.Server(auth=landline.SharedToken(token) if token else None)
    with show_progress(sys.stderr) as bars:

        def progress(file: landline.IncomingFile, state: landline.FileProgress) -> None:
            bars.show(f"{file.name} from {file.line.peer}", state)

        received = server.on_file(directory, to=to, progress=progress, overwrite=overwrite)

        @received
        def print_receipt(file: landline.IncomingFile, receipt: landline.FileReceipt) -> None:
            sys.stdout.write(
                f"{printable(receipt.name)} from {printable(file.line.peer)}: {_summary(receipt)}.\n"
            )
            sys.stdout.flush()

        async with server.listen(listen) as listening:
            stopping = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stopping.set)
            sys.stdout.write(f"Receiving files on {listening} into {directory}. Ctrl-C stops it.\n")
            sys.stdout.flush()
            await stopping.wait()
    return ALL_DONE


def _summary(receipt: landline.FileReceipt) -> str:
    sent_bytes = receipt.size_bytes - receipt.resumed_from
    text = f"{receipt.size_bytes} bytes, BLAKE2b-256 {receipt.hash.hex()}, in {receipt.duration_s:.1f} s"
    return text if not receipt.resumed_from else f"{text}; {sent_bytes} of them now, the others earlier"


def _print_state(line: Any, change: Any) -> None:
    """Print why the transfer does not continue."""
    if change.due_in_s is not None:
        sys.stderr.write(f"{printable(change.detail)}; attempt {change.attempt} in {change.due_in_s:.1f} s\n")
        sys.stderr.flush()
