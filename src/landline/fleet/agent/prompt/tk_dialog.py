"""The window that asks the person: a program of its own, run by :class:`~.tk.TkPrompt`.

Standard input: one line of JSON, a :class:`Question`; its end takes the window away. Standard output: one
line of JSON, an :class:`Answer`. Exit status: 0 answered, 1 the window cannot be shown, 2 the question is not
understood, 3 nobody waits for the answer any more.

Closing the window, Escape and Alt+F4 answer nothing: a person who sweeps a window away has not decided to
stop a restart, and must not have stopped it. The window says so and stays.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import tkinter
from pathlib import Path
from tkinter import font, ttk
from typing import Final

import msgspec

from landline.fleet.agent.prompt import Answer, Choice, Question
from landline.fleet.agent.prompt.tk import SHOWN_LINE
from landline.fleet.agent.prompt.wording import (
    CHOICES_MAX,
    asked_by,
    countdown,
    duration,
    now_label,
    plain,
    title,
)

LINE_BYTES_MAX: Final = 64 * 1024
"""The longest question that is read: 4000 characters of message, escaped, and the rest."""

COUNTDOWN_S_MAX: Final = 7 * 24 * 3600.0
"""The longest countdown that is believed."""

GEOMETRY_VARIABLE: Final = "LANDLINE_PROMPT_GEOMETRY"
"""Names a file to write the place of every button to, once they can be clicked: for tests."""

MESSAGE_COLUMNS: Final = 54
MESSAGE_LINES_MAX: Final = 8
TICK_MS: Final = 200
URGENT_S: Final = 10.0

_PAPER: Final = "#ffffff"
_INK: Final = "#1f2933"
_FADED: Final = "#616e7c"
_ACCENT: Final = "#0b6e99"
_ALARM: Final = "#b42318"
_LINE: Final = "#d5dbe1"


def main() -> int:
    """Reads the question, shows the window, writes the answer; returns the exit status."""
    try:
        question = parse_question(sys.stdin.buffer.readline(LINE_BYTES_MAX + 1))
    except ValueError as error:
        sys.stderr.write(f"The question is not understood: {error}\n")
        return 2
    try:
        dialog = Dialog(question)
    except tkinter.TclError as error:
        sys.stderr.write(f"The window cannot be shown: {error}\n")
        return 1
    sys.stdout.buffer.write(SHOWN_LINE)
    sys.stdout.buffer.flush()
    answer = dialog.run()
    if answer is None:
        return 3
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
    return 0


def parse_question(line: bytes) -> Question:
    """The question in a line of JSON, its texts made harmless. Raises :class:`ValueError` otherwise."""
    if len(line) > LINE_BYTES_MAX:
        raise ValueError("it is longer than 64 KiB")
    # msgspec's errors are ValueErrors; unknown fields are refused, as both ends are of one version.
    question = msgspec.json.decode(line, type=_StrictQuestion)
    if not 0 < question.countdown_s <= COUNTDOWN_S_MAX:
        raise ValueError("the countdown must be between 0 seconds and 7 days")
    if len(question.postpone_choices_s) > CHOICES_MAX or min(question.postpone_choices_s, default=1) <= 0:
        raise ValueError(f"there must be at most {CHOICES_MAX} positive times to postpone by")
    return plain(question)


def message_lines(message: str) -> int:
    """How many lines the message takes in the window, roughly, for choosing the height of its box."""
    return sum(max(1, math.ceil(len(line) / MESSAGE_COLUMNS)) for line in message.split("\n"))


class Dialog:
    """The window. :meth:`run` returns the answer."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._answer: Answer | None = None
        self._root = tkinter.Tk(className="Landline")
        self._root.withdraw()
        self._root.title(f"{title(question)} (landline)")
        self._root.configure(background=_PAPER)
        self._root.resizable(False, False)
        self._root.attributes("-topmost", True)
        self._buttons: dict[str, ttk.Button] = {}
        self._style()
        self._draw()
        self._bind()

    def run(self) -> Answer | None:
        """Shows the window until there is an answer; ``None`` when the one who asked is gone."""
        self._place()
        self._deadline = time.monotonic() + self._question.countdown_s
        self._tick()
        if (path := os.environ.get(GEOMETRY_VARIABLE)) is not None:
            self._root.after_idle(self._write_geometry, Path(path))
        self._root.mainloop()
        return self._answer

    # Drawing

    def _style(self) -> None:
        base = font.nametofont("TkDefaultFont").actual()["family"]
        style = ttk.Style(self._root)
        style.theme_use("clam")
        style.configure(".", background=_PAPER, foreground=_INK, font=(base, 11))
        style.configure("Title.TLabel", font=(base, 17, "bold"))
        style.configure("Faded.TLabel", foreground=_FADED)
        style.configure("Note.TLabel", foreground=_ALARM)
        style.configure("Countdown.TLabel", font=(base, 44, "bold"), foreground=_ACCENT)
        style.configure("Urgent.Countdown.TLabel", foreground=_ALARM)
        style.configure(
            "Horizontal.TProgressbar", background=_ACCENT, troughcolor=_LINE, borderwidth=0, thickness=6
        )
        style.configure("TButton", padding=(14, 8), background="#f1f4f7", bordercolor=_LINE)
        style.configure("Now.TButton", background=_ACCENT, foreground=_PAPER, bordercolor=_ACCENT)
        style.map("Now.TButton", background=[("active", "#095a7d"), ("pressed", "#07475f")])

    def _draw(self) -> None:
        question = self._question
        page = ttk.Frame(self._root, padding=(28, 24))
        page.grid(sticky="nsew")
        page.columnconfigure(0, weight=1)
        ttk.Label(page, text=title(question), style="Title.TLabel").grid(sticky="w")
        ttk.Label(page, text=asked_by(question), style="Faded.TLabel").grid(sticky="w", pady=(4, 0))
        if question.message:
            self._draw_message(page).grid(sticky="ew", pady=(14, 0))
        self._time = ttk.Label(page, style="Countdown.TLabel", anchor="center")
        self._time.grid(sticky="ew", pady=(14, 4))
        self._bar = ttk.Progressbar(page, maximum=question.countdown_s)
        self._bar.grid(sticky="ew")
        self._note = ttk.Label(page, style="Note.TLabel", anchor="center", wraplength=560)
        self._note.grid(sticky="ew", pady=(10, 0))
        if question.may_postpone and question.postpone_choices_s:
            self._draw_choices(page).grid(sticky="ew", pady=(10, 0))
        self._draw_decisions(page).grid(sticky="ew", pady=(16, 0))

    def _draw_message(self, page: ttk.Frame) -> tkinter.Frame:
        # The darker ground shows through as a line at the left, as beside a quotation.
        frame = tkinter.Frame(page, background=_ACCENT)
        lines = message_lines(self._question.message)
        text = tkinter.Text(
            frame,
            width=MESSAGE_COLUMNS,
            height=min(lines, MESSAGE_LINES_MAX),
            wrap="word",
            font="TkDefaultFont",
            background="#f7f9fb",
            foreground=_INK,
            relief="flat",
            borderwidth=0,
            highlightthickness=0,
            padx=12,
            pady=10,
            takefocus=False,
            cursor="arrow",
        )
        text.insert("1.0", self._question.message)
        text.configure(state="disabled")
        text.pack(side="left", fill="both", expand=True, padx=(3, 0))
        if lines > MESSAGE_LINES_MAX:
            bar = ttk.Scrollbar(frame, command=text.yview)
            text.configure(yscrollcommand=bar.set)
            bar.pack(side="right", fill="y")
        return frame

    def _draw_choices(self, page: ttk.Frame) -> ttk.Frame:
        row = ttk.Frame(page)
        ttk.Label(row, text="Postpone by", underline=0).grid(row=0, column=0, padx=(0, 8))
        for index, seconds in enumerate(self._question.postpone_choices_s):
            answer = Answer(choice=Choice.POSTPONE, postpone_s=seconds)
            button = self._button(row, f"postpone {index}", duration(seconds), answer)
            button.grid(row=index // 3, column=1 + index % 3, sticky="ew", padx=(0, 8), pady=(0, 6))
            row.columnconfigure(1 + index % 3, weight=1)
        return row

    def _draw_decisions(self, page: ttk.Frame) -> ttk.Frame:
        row = ttk.Frame(page)
        row.columnconfigure(0, weight=1)
        if self._question.may_cancel:
            button = self._button(row, "cancel", "Cancel", Answer(choice=Choice.CANCEL))
            button.configure(underline=0)
            button.grid(row=0, column=0, sticky="w")
        text = now_label(self._question)
        button = self._button(row, "now", text, Answer(choice=Choice.NOW))
        button.configure(style="Now.TButton", underline=len(text) - 3)
        button.grid(row=0, column=1, sticky="e")
        return row

    def _button(self, row: ttk.Frame, name: str, text: str, answer: Answer) -> ttk.Button:
        button = ttk.Button(row, text=text, command=lambda: self._finish(answer))
        button.bind("<Return>", lambda _event: button.invoke())
        self._buttons[name] = button
        return button

    def _place(self) -> None:
        root = self._root
        root.update_idletasks()
        x = max(0, (root.winfo_screenwidth() - root.winfo_reqwidth()) // 2)
        y = max(0, (root.winfo_screenheight() - root.winfo_reqheight()) // 2)
        root.geometry(f"+{x}+{y}")
        root.deiconify()
        root.lift()

    # What happens

    def _bind(self) -> None:
        root = self._root
        # No button has the focus at first and every shortcut needs Alt: they may be typing something else.
        root.bind("<Alt-n>", lambda _event: self._buttons["now"].invoke())
        if "cancel" in self._buttons:
            root.bind("<Alt-c>", lambda _event: self._buttons["cancel"].invoke())
        if "postpone 0" in self._buttons:
            root.bind("<Alt-p>", lambda _event: self._buttons["postpone 0"].focus_set())
        root.bind("<Escape>", lambda _event: self._stay())
        root.bind("<Alt-F4>", lambda _event: self._stay())
        root.protocol("WM_DELETE_WINDOW", self._stay)
        if sys.platform != "win32":  # Tk watches sockets only on Windows
            root.createfilehandler(sys.stdin, tkinter.READABLE, self._handle_stdin)

    def _stay(self) -> None:
        what = "Choose Cancel to stop it." if self._question.may_cancel else "It goes on when the time is up."
        self._note.configure(text=f"Closing this window changes nothing. {what}")
        self._root.deiconify()
        self._root.lift()
        self._root.bell()

    def _tick(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            self._finish(Answer(choice=Choice.TIMED_OUT))
            return
        is_urgent = left_s <= URGENT_S
        self._time.configure(
            text=countdown(left_s), style="Urgent.Countdown.TLabel" if is_urgent else "Countdown.TLabel"
        )
        self._bar.configure(value=left_s)
        self._root.after(TICK_MS, self._tick)

    def _finish(self, answer: Answer) -> None:
        self._answer = answer
        self._root.destroy()

    def _handle_stdin(self, _file: object, _mask: int) -> None:
        if not os.read(sys.stdin.fileno(), LINE_BYTES_MAX):
            self._root.destroy()

    def _write_geometry(self, path: Path) -> None:
        self._root.update()
        if not self._root.winfo_viewable():
            self._root.after(TICK_MS, self._write_geometry, path)
            return
        places = {
            name: (button.winfo_rootx(), button.winfo_rooty(), button.winfo_width(), button.winfo_height())
            for name, button in self._buttons.items()
        }
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"window": self._root.winfo_id(), "buttons": places}))
        unfinished.replace(path)


class _StrictQuestion(Question, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question that may have no field this version does not know."""


if __name__ == "__main__":
    sys.exit(main())
