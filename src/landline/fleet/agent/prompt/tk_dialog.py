"""The window that asks the person; a program that :class:`~.tk_prompt.TkPrompt` runs.

Standard input: one line of JSON, a :class:`Question`; its end closes the window. Standard output: the line
``shown`` when the window is on the screen, then one line of JSON, an :class:`Answer`. Exit status: 0 answered,
1 the window cannot be shown, 2 the question is invalid, 3 standard input ended before an answer. The one optional
argument is the grace period in seconds, for tests.

The window appears while a person works, so it must neither take what they type nor act on it:

* It asks the window manager not to focus it, and takes the focus only when it is clicked or chosen.
* Its buttons are disabled for the first :data:`GRACE_S`.
* Keys do nothing in a window that got the focus without an action of the person (:class:`InputGuard`).

Closing the window, Escape and Alt+F4 give no answer: a person who closes a window out of habit has not decided to stop
a restart. The window says so and stays.
"""

from __future__ import annotations

import json
import os
import sys
import time
import tkinter
from pathlib import Path
from typing import Final

import msgspec

from landline.fleet.agent.prompt import Answer, Choice, Question
from landline.fleet.agent.prompt.prompt_texts import CHOICES_MAX, cancel_label, countdown, plain, title
from landline.fleet.agent.prompt.tk_layout import Rectangle, monitor_at, place, scale_of, smaller, usable_size
from landline.fleet.agent.prompt.tk_prompt import SHOWN_LINE
from landline.fleet.agent.prompt.tk_widgets import Page
from landline.fleet.agent.prompt.x11 import X11

LINE_BYTES_MAX: Final = 64 * 1024
"""The longest question that is read: a message of 4000 escaped characters, and the rest."""

COUNTDOWN_S_MAX: Final = 7 * 24 * 3600.0
"""The longest countdown that is accepted."""

GRACE_S: Final = 1.5
"""Time for which buttons are disabled at first, and keys ignored after the window got the focus without a click: a
person who types or clicks needs about a second to notice that another window is in front."""

GEOMETRY_VARIABLE: Final = "LANDLINE_PROMPT_GEOMETRY"
"""Names a file that gets the position of every button, and whether it is enabled: for tests."""

TICK_MS: Final = 200
URGENT_S: Final = 10.0


def main() -> int:
    """Read the question, show the window, write the answer; return the exit status."""
    try:
        grace_s = float(sys.argv[1]) if len(sys.argv) > 1 else GRACE_S
        question = parse_question(sys.stdin.buffer.readline(LINE_BYTES_MAX + 1))
    except ValueError as error:
        sys.stderr.write(f"The question is invalid: {error}\n")
        return 2
    try:
        dialog = Dialog(question, grace_s)
    except tkinter.TclError as error:
        sys.stderr.write(f"The window cannot be shown: {error}\n")
        return 1
    answer = dialog.run()
    if answer is None:
        return 3
    _say(msgspec.json.encode(answer) + b"\n")
    return 0


def parse_question(line: bytes) -> Question:
    """Return the question in a line of JSON, with texts that are safe to show. Raise :class:`ValueError`."""
    if len(line) > LINE_BYTES_MAX:
        raise ValueError("it is longer than 64 KiB")
    # msgspec's errors are ValueErrors. Unknown fields are refused, as both ends have the same version.
    question = msgspec.json.decode(line, type=_StrictQuestion)
    if not 0 < question.countdown_s <= COUNTDOWN_S_MAX:
        raise ValueError("the countdown must be between 0 seconds and 7 days")
    if len(question.postpone_choices_s) > CHOICES_MAX or min(question.postpone_choices_s, default=1) <= 0:
        raise ValueError(f"there must be at most {CHOICES_MAX} positive times to postpone by")
    return plain(question)


class InputGuard:
    """Decides whether clicks and keys are meant for the window. Pure: times are arguments, in seconds.

    Buttons work ``grace_s`` after the window appeared. Keys work after a click into the window, or if the window got
    the focus after that time and has had it for ``grace_s``. A focus that comes as the window appears does not count:
    the person did not choose it.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._shown_at: float | None = None
        self._keys_from: float | None = None
        self._has_focus = False

    def show(self, now: float) -> None:
        """Note that the window appeared, for the first time or again."""
        self._shown_at = now
        self._keys_from = None

    def set_focus(self, has_focus: bool, now: float) -> None:
        """Note that the window got or lost the focus."""
        if self._has_focus and not has_focus:
            self._keys_from = None
        elif has_focus and not self._has_focus and self._keys_from is None and self.takes_clicks(now):
            self._keys_from = now + self._grace_s
        self._has_focus = has_focus

    def click(self, now: float) -> None:
        """Note a mouse click in the window."""
        if self.takes_clicks(now):
            self._keys_from = now

    def takes_clicks(self, now: float) -> bool:
        """Return whether clicks work."""
        return self._shown_at is not None and now >= self._shown_at + self._grace_s

    def takes_keys(self, now: float) -> bool:
        """Return whether keys work."""
        return self.takes_clicks(now) and self._keys_from is not None and now >= self._keys_from


class Dialog:
    """The window. :meth:`run` returns the answer."""

    def __init__(self, question: Question, grace_s: float = GRACE_S) -> None:
        self._question = question
        self._grace_s = grace_s
        self._guard = InputGuard(grace_s)
        self._answer: Answer | None = None
        self._was_shown = False
        self._geometry_file = os.environ.get(GEOMETRY_VARIABLE)
        self._root = tkinter.Tk(className="Landline")
        self._root.withdraw()
        self._root.title(f"{title(question)} (landline)")
        self._root.resizable(False, False)
        self._root.attributes("-topmost", True)
        self._x11 = self._connect_x11()
        self._monitor = self._find_monitor()
        self._page = self._fitting_page()
        self._bind()

    def run(self) -> Answer | None:
        """Show the window until there is an answer; return ``None`` if standard input ended first."""
        self._deadline = time.monotonic() + self._question.countdown_s
        self._tick()
        self._show()
        self._root.mainloop()
        return self._answer

    # Drawing

    def _connect_x11(self) -> X11 | None:
        if self._root.tk.call("tk", "windowingsystem") != "x11":
            return None
        try:
            return X11(self._root.winfo_screen())
        except OSError as error:
            # Not essential: the window may get the focus then, but still ignores keys.
            sys.stderr.write(f"The hints for the window manager cannot be set: {error}\n")
            return None

    def _find_monitor(self) -> Rectangle:
        root = self._root
        monitors = self._x11.monitors() if self._x11 else []
        whole = Rectangle(0, 0, root.winfo_screenwidth(), root.winfo_screenheight())
        return monitor_at(monitors or [whole], *root.winfo_pointerxy())

    def _fitting_page(self) -> Page:
        """Return the page, scaled for the resolution of the screen, and smaller if it does not fit."""
        root = self._root
        screen_dpi = root.winfo_fpixels("1i")
        dpi = (self._x11.dpi() if self._x11 else None) or screen_dpi
        scale = scale_of(dpi)
        while True:
            usable = usable_size(self._monitor, scale)
            page = Page(root, self._question, scale, usable, screen_dpi / dpi, self._finish)
            if page.fits or smaller(scale) == scale:
                return page
            page.destroy()
            scale = smaller(scale)

    def _show(self) -> None:
        root = self._root
        width, height = self._page.size
        x, y = place(self._monitor, width, height, root.winfo_pointerxy())
        root.geometry(f"{width}x{height}+{x}+{y}")
        if self._x11 is not None:
            # The window manager may send WM_TAKE_FOCUS, and must not set the focus itself (ICCCM 4.1.7,
            # "globally active"). Naming the group makes Tk create the window that the window manager sees.
            root.focusmodel("active")
            root.wm_group(root)  # type: ignore[no-untyped-call]
            root.winfo_pointerxy()  # waits for the server, which the other connection needs
            self._x11.keep_from_focus(self._x11.parent(root.winfo_id()))
        root.deiconify()

    # What happens

    def _bind(self) -> None:
        root, buttons = self._root, self._page.buttons
        # No button has the focus at first, and every shortcut needs Alt: the person may be typing something else.
        root.bind("<Alt-n>", lambda _event: buttons["now"].invoke())
        if "cancel" in buttons:
            key = cancel_label(self._question)[0].lower()
            root.bind(f"<Alt-{key}>", lambda _event: buttons["cancel"].invoke())
        if "postpone 0" in buttons:
            root.bind("<Alt-p>", lambda _event: buttons["postpone 0"].focus_set())
        root.bind("<Escape>", lambda _event: self._stay())
        root.bind("<Alt-F4>", lambda _event: self._stay())
        root.bind("<Map>", self._handle_map)
        root.bind("<Button-1>", lambda _event: self._handle_click())
        for name in ("<FocusIn>", "<FocusOut>"):
            # Deferred: while the focus moves between two widgets, no widget has it.
            root.bind(name, lambda _event: root.after_idle(self._look_for_focus))
        root.protocol("WM_DELETE_WINDOW", self._stay)
        root.protocol("WM_TAKE_FOCUS", self._handle_take_focus)
        self._guard_keys(root)
        if sys.platform != "win32":  # Tk watches sockets only on Windows
            root.createfilehandler(sys.stdin, tkinter.READABLE, self._handle_stdin)

    def _guard_keys(self, widget: tkinter.Misc) -> None:
        """Block keys to ``widget`` and its children while they may not be meant for the window."""
        widget.bind_class("Guard", "<Key>", self._handle_key)
        widget.bindtags(("Guard", *widget.bindtags()))
        for child in widget.winfo_children():
            self._guard_keys(child)

    def _handle_key(self, _event: object) -> str | None:
        return None if self._guard.takes_keys(time.monotonic()) else "break"

    def _handle_map(self, event: tkinter.Event[tkinter.Misc]) -> None:
        if event.widget is not self._root:
            return
        self._guard.show(time.monotonic())
        self._page.enable(False)
        self._root.after(round(self._grace_s * 1000) + 1, self._enable_when_due)
        if self._x11 is not None:
            # Not earlier: Tk sets the hints when it maps a window.
            self._x11.call_attention(self._x11.parent(self._root.winfo_id()))
        if not self._was_shown:
            self._was_shown = True
            _say(SHOWN_LINE)
        self._root.after_idle(self._write_geometry, False)

    def _enable_when_due(self) -> None:
        # Not yet, if the window was hidden and shown again in the meantime.
        if self._guard.takes_clicks(time.monotonic()):
            self._page.enable(True)
            self._write_geometry(True)

    def _handle_click(self) -> None:
        now = time.monotonic()
        self._guard.click(now)
        if self._guard.takes_clicks(now):
            self._root.focus_force()

    def _handle_take_focus(self) -> None:
        # Sent when the person selected the window; some window managers also send it when the window appears.
        if self._guard.takes_clicks(time.monotonic()):
            self._root.focus_force()

    def _look_for_focus(self) -> None:
        self._guard.set_focus(self._root.focus_displayof() is not None, time.monotonic())

    def _stay(self) -> None:
        if self._question.may_cancel:
            what = f"To stop it, choose “{cancel_label(self._question)}”."
        else:
            what = "The countdown runs on."
        self._page.show_note(f"Closing this window changes nothing. {what}")
        self._root.deiconify()
        self._root.bell()

    def _tick(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            self._finish(Answer(choice=Choice.TIMED_OUT))
            return
        self._page.show_time(countdown(left_s), left_s, is_urgent=left_s <= URGENT_S)
        self._root.after(TICK_MS, self._tick)

    def _finish(self, answer: Answer) -> None:
        self._answer = answer
        self._root.destroy()

    def _handle_stdin(self, _file: object, _mask: int) -> None:
        if not os.read(sys.stdin.fileno(), LINE_BYTES_MAX):
            self._root.destroy()

    def _write_geometry(self, is_enabled: bool) -> None:
        if self._geometry_file is None:
            return
        self._root.update_idletasks()
        places = {name: _rectangle(button) for name, button in self._page.buttons.items()}
        data = {
            "enabled": is_enabled,
            "window": self._root.winfo_id(),
            "page": _rectangle(self._root),
            "buttons": places,
            "texts": {name: _rectangle(text) for name, text in self._page.texts.items()},
            "scrolls": self._page.scrolls,
        }
        path = Path(self._geometry_file)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(data))
        unfinished.replace(path)


class _StrictQuestion(Question, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question without unknown fields."""


def _rectangle(widget: tkinter.Misc) -> Rectangle:
    return Rectangle(widget.winfo_rootx(), widget.winfo_rooty(), widget.winfo_width(), widget.winfo_height())


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
