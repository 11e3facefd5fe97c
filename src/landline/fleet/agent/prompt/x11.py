"""Requests to an X server that Tk does not offer: focus hints for a new window, monitors, resolution.

Uses Xlib, as Tk does, on a separate connection. Property names are those of the Extended Window Manager Hints (EWMH)
and of ICCCM.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from landline.fleet.agent.prompt.tk_layout import Rectangle

ALL_DESKTOPS: Final = 0xFFFFFFFF
"""The desktop number of a window that is on every desktop (EWMH, ``_NET_WM_DESKTOP``)."""

DPI_MIN: Final = 20.0
DPI_MAX: Final = 2000.0
"""The accepted range of a configured resolution; no screen has less or more."""

_CARDINAL: Final = 6
_REPLACE: Final = 0
_URGENCY_HINT: Final = 1 << 8
_MONITORS_MAX: Final = 64


class _WmHints(ctypes.Structure):
    """XWMHints of Xutil.h."""

    _fields_ = (
        ("flags", ctypes.c_long),
        ("input", ctypes.c_int),
        ("initial_state", ctypes.c_int),
        ("icon_pixmap", ctypes.c_ulong),
        ("icon_window", ctypes.c_ulong),
        ("icon_x", ctypes.c_int),
        ("icon_y", ctypes.c_int),
        ("icon_mask", ctypes.c_ulong),
        ("window_group", ctypes.c_ulong),
    )


class _ScreenInfo(ctypes.Structure):
    """XineramaScreenInfo of Xinerama.h."""

    _fields_ = (
        ("screen_number", ctypes.c_int),
        ("x_org", ctypes.c_short),
        ("y_org", ctypes.c_short),
        ("width", ctypes.c_short),
        ("height", ctypes.c_short),
    )


class X11:
    """A connection to the X server ``display``. Raises :class:`OSError` without Xlib or a server."""

    def __init__(self, display: str) -> None:
        xlib: Any = ctypes.CDLL("libX11.so.6")
        xlib.XOpenDisplay.restype = ctypes.c_void_p
        xlib.XOpenDisplay.argtypes = [ctypes.c_char_p]
        xlib.XGetDefault.restype = ctypes.c_char_p
        xlib.XGetDefault.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        xlib.XInternAtom.restype = ctypes.c_ulong
        xlib.XInternAtom.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        xlib.XChangeProperty.argtypes = [
            ctypes.c_void_p,
            *(ctypes.c_ulong,) * 3,
            *(ctypes.c_int,) * 2,
            ctypes.c_void_p,
            ctypes.c_int,
        ]
        xlib.XQueryTree.argtypes = [ctypes.c_void_p, ctypes.c_ulong, *(ctypes.c_void_p,) * 4]
        xlib.XGetWMHints.restype = ctypes.POINTER(_WmHints)
        xlib.XGetWMHints.argtypes = [ctypes.c_void_p, ctypes.c_ulong]
        xlib.XSetWMHints.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p]
        xlib.XFree.argtypes = [ctypes.c_void_p]
        xlib.XSync.argtypes = [ctypes.c_void_p, ctypes.c_int]
        xlib.XCloseDisplay.argtypes = [ctypes.c_void_p]
        self._xlib = xlib
        self._display: int | None = xlib.XOpenDisplay(display.encode())
        if self._display is None:
            raise OSError(f"the display {display} cannot be opened")

    def close(self) -> None:
        """Close the connection."""
        self._xlib.XCloseDisplay(self._display)

    def keep_from_focus(self, window: int) -> None:
        """Ask the window manager to show ``window``, not mapped yet, without the focus and on every desktop.

        A user time of zero means that no action of the user opened this window (EWMH, ``_NET_WM_USER_TIME``).
        """
        self._set_number(window, b"_NET_WM_USER_TIME", 0)
        self._set_number(window, b"_NET_WM_DESKTOP", ALL_DESKTOPS)
        self._xlib.XSync(self._display, 0)

    def call_attention(self, window: int) -> None:
        """Set the urgency hint of a mapped ``window``: task bars highlight it (ICCCM 4.1.2.4)."""
        hints = self._xlib.XGetWMHints(self._display, window)
        if hints:
            hints.contents.flags |= _URGENCY_HINT
            self._xlib.XSetWMHints(self._display, window, hints)
            self._xlib.XFree(hints)
        self._xlib.XSync(self._display, 0)

    def parent(self, window: int) -> int:
        """Return the parent of ``window``."""
        root, parent, count = ctypes.c_ulong(), ctypes.c_ulong(), ctypes.c_uint()
        children = ctypes.c_void_p()
        out = (ctypes.byref(root), ctypes.byref(parent), ctypes.byref(children), ctypes.byref(count))
        if self._xlib.XQueryTree(self._display, window, *out) and children.value:
            self._xlib.XFree(children)
        return parent.value

    def dpi(self) -> float | None:
        """Return the dots per inch that the person has set (the resource ``Xft.dpi``), or ``None``."""
        text = self._xlib.XGetDefault(self._display, b"Xft", b"dpi")
        try:
            dpi = float(text or "nan")
        except ValueError:
            return None
        return dpi if DPI_MIN <= dpi <= DPI_MAX else None

    def monitors(self) -> list[Rectangle]:
        """Return the monitors in their order; none if the server or its library does not list them."""
        try:
            xinerama: Any = ctypes.CDLL("libXinerama.so.1")
        except OSError:
            return []
        xinerama.XineramaQueryScreens.restype = ctypes.POINTER(_ScreenInfo)
        xinerama.XineramaQueryScreens.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        count = ctypes.c_int()
        found = xinerama.XineramaQueryScreens(self._display, ctypes.byref(count))
        if not found:
            return []
        infos = found[: min(count.value, _MONITORS_MAX)]
        monitors = [Rectangle(info.x_org, info.y_org, info.width, info.height) for info in infos]
        self._xlib.XFree(found)
        return [monitor for monitor in monitors if monitor.width > 0 and monitor.height > 0]

    def _set_number(self, window: int, name: bytes, number: int) -> None:
        atom = self._xlib.XInternAtom(self._display, name, 0)
        value = ctypes.c_long(number)
        self._xlib.XChangeProperty(
            self._display, window, atom, _CARDINAL, 32, _REPLACE, ctypes.byref(value), 1
        )
