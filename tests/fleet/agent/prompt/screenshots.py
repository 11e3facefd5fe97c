"""Pictures of the window on a screen of its own, for the docs: ``python -m tests.fleet.agent.prompt.screenshots``.

Needs Xvfb (``apt install xvfb``) and ImageMagick (``apt install imagemagick``).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import msgspec
from tests.fleet.agent.prompt.screens import geometry, screen

from landline.fleet.agent.prompt import Question
from landline.fleet.agent.prompt.tk_dialog import GEOMETRY_VARIABLE
from landline.fleet.agent.prompt.tk_prompt import TkPrompt
from landline.fleet.model import Action

QUESTION = Question(
    action=Action.RESTART,
    requested_by="root@control",
    message="Updates before the exam at two o'clock. The computer is back in about three minutes.",
    countdown_s=299.5,
)


async def take(
    question: Question, size: str, dpi: int, path: Path, *, is_enabled: bool = True, is_whole: bool = False
) -> None:
    """Show ``question`` on a screen of ``size`` (``1366x768``) and write a picture to ``path``, as PNG.

    The picture is of the window, or of the whole screen when ``is_whole``.
    """
    with screen(size, dpi) as display, tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "geometry.json"
        environ = {**os.environ, "DISPLAY": display, GEOMETRY_VARIABLE: str(file)}
        asking = asyncio.create_task(TkPrompt(environ=environ).ask(question))
        try:
            told = await geometry(file, asking, is_enabled=is_enabled)
            window = "root" if is_whole else str(told["window"])
            process = await asyncio.create_subprocess_exec(
                "import", "-window", window, "+dither", "-colors", "128", f"png8:{path}", env=environ
            )
            if await process.wait() != 0:
                raise SystemExit("ImageMagick's import failed.")
        finally:
            asking.cancel()
            await asyncio.wait({asking})


def main() -> None:
    """Take one picture."""
    parser = argparse.ArgumentParser(description="Take a picture of the window that asks the person.")
    parser.add_argument("path", type=Path, help="the PNG file to write")
    parser.add_argument("--size", default="800x600", help="of the screen (default: 800x600)")
    parser.add_argument("--dpi", type=int, default=96, help="of the screen (default: 96)")
    parser.add_argument("--question", help="as JSON; fields that are missing are as in the docs")
    parser.add_argument("--disabled", action="store_true", help="as it looks for the first 1.5 s")
    parser.add_argument("--screen", action="store_true", help="the whole screen, not the window alone")
    arguments = parser.parse_args()
    if shutil.which("import") is None:
        raise SystemExit("ImageMagick is missing: apt install imagemagick")
    fields = {name: getattr(QUESTION, name) for name in QUESTION.__struct_fields__}
    fields |= msgspec.json.decode(arguments.question or "{}")
    question = msgspec.convert(fields, Question)
    asyncio.run(
        take(question, arguments.size, arguments.dpi, arguments.path, is_enabled=not arguments.disabled)
    )


if __name__ == "__main__":
    main()
