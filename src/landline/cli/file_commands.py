"""Commands that move files: ``send-file`` and ``receive-files``."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from landline.cli.exit_codes import (
    ALL_DONE,
    INTERRUPTED,
    NO_SERVER,
    SOME_NOT_DONE,
    CommandFailed,
    WrongUse,
    sentence,
)
from landline.cli.listen_option import listen_endpoint
from landline.cli.log_output import quiet_logs
from landline.cli.options import read_token
from landline.cli.terminal_text import printable

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import landline

ATTEMPTS: Final = 20
"""Attempts to connect in a row, some minutes in all, after which a file is not sent."""

Token = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        metavar="PATH",
        help="File with the token both sides know; else LANDLINE_TOKEN is taken.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.command("send-file")(send_file)
    app.command("receive-files")(receive_files)


def send_file(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Where files are received, such as tcp://host:5463.")
    ],
    path: Annotated[str, typer.Argument(metavar="PATH", help="The file.")],
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="What to call it there. Default: its own name.", show_default=False
        ),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="LABEL", help="Which directory of the receiver: its --to.", show_default=False
        ),
    ] = "",
    token_file: Token = None,
) -> None:
    """Send a file to a machine that runs receive-files; sent again after an interruption, it goes on."""
    sys.exit(_run(_send(url, Path(path), name, to, read_token(token_file))))


def receive_files(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where files are stored.")],
    listen: Annotated[
        str,
        typer.Option("--listen", metavar="URL", help="Where senders connect. Other machines need a token."),
    ] = "tcp://127.0.0.1:5463",
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="LABEL", help="Only what is sent with the same --to.", show_default=False
        ),
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same name.")] = False,
    token_file: Token = None,
) -> None:
    """Receive files into a directory until Ctrl-C or SIGTERM."""
    sys.exit(_run(_receive(Path(directory), listen, to, read_token(token_file), overwrite=overwrite)))


async def _send(url: str, path: Path, name: str | None, to: str, token: str | None) -> int:
    import landline
    from landline.cli.file_progress import show_progress

    # Nobody is to be waited for with a file that cannot be read.
    if not stat.S_ISREG(path.stat().st_mode):
        raise WrongUse(f"{path} is not a file that can be sent; name a regular file.")
    path.open("rb").close()
    async with landline.connect(
        url,
        auth=landline.SharedToken(token) if token else None,
        connect_timeout_s=None,  # The policy ends it.
        backoff=landline.Backoff(attempts=ATTEMPTS),
        on_state=_say_state,
    ) as line:
        try:
            with show_progress(sys.stderr) as bars:
                receipt = await line.send_file(path, name=name, to=to, progress=bars.bar(name or path.name))
        except (landline.LineClosed, landline.ConnectFailed) as error:
            # The receipt may be what was lost.
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
            f"--listen {printable(listen)} lets other machines send files; give --token-file or set LANDLINE_TOKEN."
        )
    server = landline.Server(auth=landline.SharedToken(token) if token else None)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with show_progress(sys.stderr) as bars:

        def progress(file: landline.IncomingFile, told: landline.FileProgress) -> None:
            bars.show(f"{file.name} from {file.line.peer}", told)

        received = server.on_file(directory, to=to, progress=progress, overwrite=overwrite)

        @received
        def say(file: landline.IncomingFile, receipt: landline.FileReceipt) -> None:
            sys.stdout.write(
                f"{printable(receipt.name)} from {printable(file.line.peer)}: {_summary(receipt)}.\n"
            )
            sys.stdout.flush()

        async with server.listen(listen) as listening:
            sys.stdout.write(f"Files are received on {listening} into {directory}. Ctrl-C stops it.\n")
            sys.stdout.flush()
            await stopping.wait()
    return ALL_DONE


def _summary(receipt: landline.FileReceipt) -> str:
    sent_bytes = receipt.size_bytes - receipt.resumed_from
    text = f"{receipt.size_bytes} bytes, BLAKE2b-256 {receipt.hash.hex()}, in {receipt.duration_s:.1f} s"
    return text if not receipt.resumed_from else f"{text}; {sent_bytes} of them now, the rest before"


def _say_state(line: Any, change: Any) -> None:
    """Why nothing moves, for the person who waits."""
    if change.due_in_s is not None:
        sys.stderr.write(f"{printable(change.detail)}; attempt {change.attempt} in {change.due_in_s:.1f} s\n")
        sys.stderr.flush()


def _run(main: Coroutine[Any, Any, int]) -> int:
    """Runs a command; what is expected to go wrong becomes one sentence and an exit status."""
    import landline

    quiet_logs()
    try:
        return landline.run(main)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (landline.ConfigurationError, landline.MissingExtra) as error:
        raise WrongUse(sentence(str(error))) from error
    except (landline.ConnectFailed, landline.ProtocolError) as error:
        raise CommandFailed(sentence(str(error)), NO_SERVER) from error
    except landline.LandlineError as error:
        raise CommandFailed(sentence(str(error)), SOME_NOT_DONE) from error
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        raise CommandFailed(f"{name}{(error.strerror or str(error)).lower()}.", SOME_NOT_DONE) from error
