"""Lines belong to the thread of their event loop: who calls from another one is told so, before anything is changed.

The check is a comparison of two numbers, written out where messages are sent: a call for it would cost as much again.
"""

from __future__ import annotations

import threading


def wrong_thread(method: str) -> RuntimeError:
    """Return what to raise for a method that was called from another thread than that of its event loop."""
    return RuntimeError(
        f"{method}() was called from the thread {threading.current_thread().name!r}; it belongs to the thread of its "
        f"event loop: use loop.call_soon_threadsafe({method}, ...), or "
        "asyncio.run_coroutine_threadsafe(line.send(...), loop)"
    )


def check_thread(thread: int, method: str) -> None:
    """Raise :class:`RuntimeError` in another thread than the one with that number (``threading.get_ident()``).

    0 stands for an owner that has not begun: it has no lines, and no thread yet.
    """
    if thread and threading.get_ident() != thread:
        raise wrong_thread(method)
