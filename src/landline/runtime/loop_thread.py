"""Checks that lines are used only in the thread of their event loop, before a call changes anything.

The check compares two numbers. It is written inline where messages are sent: a function call would double its cost.
"""

from __future__ import annotations

import threading


def wrong_thread(method: str) -> RuntimeError:
    """Return the error for a method that was called in another thread than that of its event loop."""
    return RuntimeError(
        f"{method}() was called from the thread {threading.current_thread().name!r}; it belongs to the thread of its "
        f"event loop: use loop.call_soon_threadsafe({method}, ...), or "
        "asyncio.run_coroutine_threadsafe(line.send(...), loop)"
    )


def check_thread(thread: int, method: str) -> None:
    """Raise :class:`RuntimeError` unless the current thread is ``thread`` (see ``threading.get_ident()``).

    0 stands for a host that has not started: it has neither lines nor a thread yet.
    """
    if thread and threading.get_ident() != thread:
        raise wrong_thread(method)
