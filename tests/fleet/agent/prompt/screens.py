"""Screens of any size and resolution, and what the window says of itself on them."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def screen(size: str, dpi: int = 96) -> Iterator[str]:
    """An X server with one screen of ``size`` (``1366x768``); yields the name of its display."""
    reader, writer = os.pipe()
    with open(reader) as ready:
        process = subprocess.Popen(
            # Without -noreset the server starts over when its last window goes, and refuses the next for a moment.
            [
                "Xvfb",
                *("-displayfd", str(writer)),
                *("-screen", "0", f"{size}x24"),
                *("-dpi", str(dpi)),
                *("-nolisten", "tcp"),
                "-noreset",
            ],
            pass_fds=(writer,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(writer)
        try:
            number = ready.readline().strip()
            assert number, "Xvfb did not start"
            yield f":{number}"
        finally:
            # Not killed: it removes its socket and its lock.
            process.terminate()
            process.wait()


async def geometry(file: Path, asking: asyncio.Task[Any], *, is_enabled: bool = True) -> dict[str, Any]:
    """What the window wrote of itself, once its buttons can be pressed (or, not ``is_enabled``, are shown)."""
    while not asking.done():
        if file.exists():
            data: dict[str, Any] = json.loads(file.read_text())
            if data["enabled"] or not is_enabled:
                return data
        await asyncio.sleep(0.02)
    await asking
    raise AssertionError("the window went before its buttons could be pressed")


def set_resources(display: str, text: str) -> None:
    """Set the resources of a display, as a desktop does for the resolution that the person chose (``Xft.dpi``)."""
    xlib: Any = ctypes.CDLL("libX11.so.6")
    xlib.XOpenDisplay.restype = ctypes.c_void_p
    xlib.XDefaultRootWindow.restype = ctypes.c_ulong
    connection = ctypes.c_void_p(xlib.XOpenDisplay(display.encode()))
    assert connection.value
    root = ctypes.c_ulong(xlib.XDefaultRootWindow(connection))
    resource_manager, string, bits, replace = ctypes.c_ulong(23), ctypes.c_ulong(31), 8, 0
    data = text.encode()
    xlib.XChangeProperty(connection, root, resource_manager, string, bits, replace, data, len(data))
    xlib.XCloseDisplay(connection)
