"""Send files to another machine. A transfer survives lost connections and restarts of either program.

    python examples/filedrop.py receive inbox
    python examples/filedrop.py send holiday.mp4 notes.txt

A file gets its name when it is complete, verified by its hash, and on disk; until then it is hidden. When it is sent
again after an interruption, it resumes. Existing files are not overwritten.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

import landline

COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    DownloadColumn(),
    TransferSpeedColumn(),
    TimeRemainingColumn(),
)


async def receive(url: str, directory: Path, quota_bytes: int | None) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=5, timeout_s=3))

    @server.on_file(directory, limits=landline.FileLimits(quota_bytes=quota_bytes))
    def stored(file: landline.IncomingFile, receipt: landline.FileReceipt) -> None:
        say(f"{receipt.path} from {file.line.peer}: {describe(receipt)}")

    async with server.listen(url) as endpoint:
        say(f"listening on {endpoint}; press Ctrl-C to stop")
        await server.serve_forever()


async def send(url: str, paths: Sequence[Path]) -> bool:
    """Send the files; return whether all were accepted."""
    all_accepted = True
    backoff = landline.Backoff(first_s=0.2, cap_s=5)
    async with landline.connect(url, backoff=backoff, on_session_lost=continue_in_new_session) as line:
        for path in paths:
            try:
                receipt = await send_with_bar(line, path)
            except (landline.FileError, landline.ConfigurationError, OSError) as error:
                # A file that is refused or changes meanwhile does not prevent sending the others.
                say(f"{path}: not sent: {error}")
                all_accepted = False
            else:
                say(f"{path}: {describe(receipt)}")
    return all_accepted


async def send_with_bar(line: landline.Line, path: Path) -> landline.FileReceipt:
    with Progress(*COLUMNS, transient=True, disable=not sys.stdout.isatty()) as bars:
        bar = bars.add_task(path.name, total=None)

        def show(progress: landline.FileProgress) -> None:
            state = "" if line.state is landline.LineState.ONLINE else f" ({line.state})"
            bars.update(
                bar,
                total=progress.bytes_total,
                completed=progress.bytes_done,
                description=f"{path.name}{state}",
            )

        return await line.send_file(path, progress=show)


def continue_in_new_session(line: landline.Line, unconfirmed: tuple[landline.Unconfirmed, ...]) -> None:
    """Continue after a restart of the receiver: send_file() resumes from what the receiver has on disk."""


def describe(receipt: landline.FileReceipt) -> str:
    resumed = f", {decimal(receipt.resumed_from)} of it earlier" if receipt.resumed_from else ""
    return f"{decimal(receipt.size_bytes)} in {receipt.duration_s:.1f} s{resumed}"


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send files to another machine.")
    roles = parser.add_subparsers(dest="role", required=True)
    receiver = roles.add_parser("receive", help="receive files until Ctrl-C")
    receiver.add_argument("directory", metavar="DIRECTORY", type=Path)
    receiver.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    receiver.add_argument(
        "--quota", metavar="BYTES", type=int, help="total size of the directory; default: no limit"
    )
    sender = roles.add_parser("send", help="send files")
    sender.add_argument("files", metavar="FILE", type=Path, nargs="+")
    sender.add_argument(
        "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    given = parser.parse_args()
    try:
        if given.role == "receive":
            landline.run(receive(given.listen, given.directory, given.quota))
        elif not landline.run(send(given.server, given.files)):
            sys.exit(1)
    except (landline.LandlineError, OSError) as error:
        sys.exit(f"filedrop.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
