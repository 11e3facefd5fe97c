"""The widgets of the window: the question, its countdown and its buttons, laid out for one screen size."""

from __future__ import annotations

import tkinter
from collections.abc import Callable
from tkinter import font, ttk
from typing import Final

from landline.fleet.agent.prompt import Answer, Choice, Question
from landline.fleet.agent.prompt import tk_layout as layout
from landline.fleet.agent.prompt.prompt_texts import (
    SAVE_WORK,
    asked_by,
    at_end,
    can_postpone,
    cancel_label,
    duration,
    now_label,
    title,
)

MESSAGE_PX_MIN: Final = 84
"""The least height of a message that does not fit: three lines at scale 1, the last one cut to show that it scrolls."""

MESSAGE_PX_MAX: Final = 300
"""The largest height of a message at scale 1; longer ones scroll."""

POSTPONE_COLUMNS: Final = 3

TEXT_PX: Final = 15
TITLE_PX: Final = 23
TIME_PX: Final = 42


class Page:
    """The widgets, at ``scale``, in a window of at most the size ``usable``.

    :param font_scale: another factor for font sizes: Tk converts pixels to points with the resolution of the screen,
        and Xft points to pixels with the resolution that the person has set.
    :param finish: called with the answer of a button that is pressed.
    """

    def __init__(
        self,
        root: tkinter.Tk,
        question: Question,
        scale: float,
        usable: tuple[int, int],
        font_scale: float,
        finish: Callable[[Answer], None],
    ) -> None:
        self._root = root
        self._question = question
        self._scale = scale
        self._font_scale = font_scale
        self._family = font.nametofont("TkDefaultFont").actual()["family"]
        self._finish = finish
        self._width = min(self._px(layout.WIDTH_PX), usable[0])
        self.buttons: dict[str, ttk.Button] = {}
        self.texts: dict[str, tkinter.Misc] = {}
        self.scrolls: bool = False
        """Whether the message is longer than its box."""
        self._style()
        self._frame = ttk.Frame(root, padding=self._px(20))
        self._frame.grid(sticky="nsew")
        self._frame.columnconfigure(0, weight=1)
        self._draw()
        self.fits: bool = self._fit(usable[1])

    @property
    def size(self) -> tuple[int, int]:
        """The width and height in pixels."""
        return self._width, self._frame.winfo_reqheight()

    def destroy(self) -> None:
        """Remove all widgets."""
        self._frame.destroy()

    def enable(self, is_enabled: bool) -> None:
        """Enable or disable the buttons."""
        for button in self.buttons.values():
            button.state(["!disabled" if is_enabled else "disabled"])

    def show_time(self, text: str, left_s: float, *, is_urgent: bool) -> None:
        """Show the time left. Redraw only what changed, so that nothing flickers."""
        if self._time.cget("text") != text:
            style = "Urgent.Countdown.TLabel" if is_urgent else "Countdown.TLabel"
            self._time.configure(text=text, style=style)
        self._bar.configure(value=left_s)

    def show_note(self, text: str) -> None:
        """Show a sentence above the buttons, in a place that is reserved, so that nothing moves."""
        self._note.configure(text=text)

    # Drawing

    def _px(self, pixels: float) -> int:
        return round(pixels * self._scale)

    def _font(self, pixels: float) -> tuple[str, int]:
        # Negative sizes are pixels: not scaled by the size in millimetres that the screen reports.
        return self._family, -round(pixels * self._scale * self._font_scale)

    @property
    def _inner_px(self) -> int:
        return self._width - 2 * self._px(20)

    def _style(self) -> None:
        text = self._font(TEXT_PX)
        style = ttk.Style(self._root)
        style.theme_use("clam")
        self._root.configure(background=layout.PAPER)
        style.configure(".", background=layout.PAPER, foreground=layout.INK, font=text)
        style.configure("Title.TLabel", font=(*self._font(TITLE_PX), "bold"))
        style.configure("Faded.TLabel", foreground=layout.FADED)
        style.configure("Strong.TLabel", font=(*text, "bold"))
        style.configure("Note.TLabel", foreground=layout.ALARM)
        style.configure("Countdown.TLabel", font=(*self._font(TIME_PX), "bold"), foreground=layout.ACCENT)
        style.configure("Urgent.Countdown.TLabel", foreground=layout.ALARM)
        style.configure(
            "Horizontal.TProgressbar",
            background=layout.ACCENT,
            troughcolor=layout.LINE,
            lightcolor=layout.ACCENT,
            darkcolor=layout.ACCENT,
            bordercolor=layout.LINE,
            borderwidth=0,
            thickness=self._px(5),
        )
        style.configure("TScrollbar", arrowsize=self._px(14))
        style.configure(
            "TButton",
            padding=0,
            background=layout.BUTTON,
            bordercolor=layout.LINE,
            focuscolor=layout.INK,
            focusthickness=max(2, self._px(2)),
            anchor="center",
        )
        height_px = max(layout.BUTTON_PX_MIN, self._px(layout.BUTTON_PX_MIN))
        bare = ttk.Button(self._root, text="Ag")
        style.configure("TButton", padding=(self._px(12), -(-(height_px - bare.winfo_reqheight()) // 2)))
        bare.destroy()
        off = [("disabled", layout.OFF)]
        off_ink = [("disabled", layout.OFF_INK)]
        style.map(
            "TButton",
            background=[*off, ("active", layout.BUTTON_ACTIVE)],
            foreground=off_ink,
            bordercolor=[("focus", layout.INK)],
        )
        style.configure("Now.TButton", background=layout.ACCENT, foreground=layout.PAPER)
        style.configure("Now.TButton", bordercolor=layout.ACCENT, focuscolor=layout.PAPER)
        style.map(
            "Now.TButton",
            background=[*off, ("pressed", layout.ACCENT_DARK), ("active", layout.ACCENT_DARK)],
            foreground=off_ink,
            bordercolor=[("disabled", layout.OFF), ("focus", layout.INK)],
        )

    def _draw(self) -> None:
        question, page = self._question, self._frame
        self._label(page, title(question), "Title.TLabel").grid(sticky="w")
        self._label(page, asked_by(question), "Faded.TLabel").grid(sticky="w", pady=(self._px(4), 0))
        if question.message:
            self._draw_message().grid(sticky="ew", pady=(self._px(12), 0))
        self._draw_time().grid(sticky="ew", pady=(self._px(12), self._px(6)))
        self._bar = ttk.Progressbar(page, maximum=question.countdown_s)
        self._bar.grid(sticky="ew")
        self._draw_note().grid(sticky="ew", pady=(self._px(8), 0))
        if can_postpone(question):
            self._draw_choices().grid(sticky="ew", pady=(self._px(6), 0))
        self._draw_decisions().grid(sticky="ew", pady=(self._px(8), 0))

    def _label(self, parent: ttk.Frame, text: str, style: str, width_px: int | None = None) -> ttk.Label:
        label = ttk.Label(parent, text=text, style=style, wraplength=width_px or self._inner_px)
        self.texts[text] = label
        return label

    def _draw_message(self) -> tkinter.Frame:
        """Return the message in a box as wide as the page; :meth:`_fit` sets its height."""
        # The darker background shows as a line at the left, as beside a quotation.
        box = tkinter.Frame(self._frame, background=layout.ACCENT, width=self._inner_px)
        text = tkinter.Text(
            box,
            wrap="word",
            font=self._font(TEXT_PX),
            background=layout.QUOTE,
            foreground=layout.INK,
            relief="flat",
            borderwidth=0,
            highlightthickness=max(2, self._px(2)),
            highlightbackground=layout.QUOTE,
            highlightcolor=layout.ACCENT,
            padx=self._px(10),
            pady=self._px(6),
            takefocus=False,
            cursor="arrow",
        )
        text.insert("1.0", self._question.message)
        text.configure(state="disabled")
        # Read-only text needs no cursor: the arrow keys scroll.
        text.bind("<Up>", lambda _event: text.yview_scroll(-1, "units"))
        text.bind("<Down>", lambda _event: text.yview_scroll(1, "units"))
        bar = ttk.Scrollbar(box, command=text.yview)
        text.configure(yscrollcommand=bar.set)
        self._box, self._text, self._scroll_bar = box, text, bar
        self.texts[self._question.message] = box
        return box

    def _draw_time(self) -> ttk.Frame:
        row = ttk.Frame(self._frame)
        row.columnconfigure(1, weight=1)
        self._time = ttk.Label(row, style="Countdown.TLabel")
        # As wide as the longest time, so that the text beside it does not move.
        digits = "0:00:00" if self._question.countdown_s >= 3600 else "00:00"
        measure = font.Font(font=ttk.Style(self._root).lookup("Countdown.TLabel", "font")).measure(digits)
        row.columnconfigure(0, minsize=measure + self._px(16))
        self._time.grid(row=0, column=0, rowspan=2, sticky="w")
        width = self._inner_px - measure - self._px(24)
        self._label(row, at_end(self._question), "TLabel", width).grid(row=0, column=1, sticky="sw")
        self._label(row, SAVE_WORK, "Strong.TLabel", width).grid(row=1, column=1, sticky="nw")
        return row

    def _draw_note(self) -> ttk.Frame:
        row = ttk.Frame(self._frame)
        self._note = ttk.Label(row, style="Note.TLabel", wraplength=self._inner_px)
        self._note.grid(sticky="w")
        line_px = font.Font(font=ttk.Style(self._root).lookup("TLabel", "font")).metrics("linespace")
        row.rowconfigure(0, minsize=2 * line_px if self._inner_px < self._px(500) else line_px)
        return row

    def _draw_choices(self) -> ttk.Frame:
        row = ttk.Frame(self._frame)
        gap = self._px(8)
        ttk.Label(row, text="Postpone by", underline=0).grid(
            row=0, column=0, padx=(0, gap), pady=(0, self._px(6))
        )
        for index, seconds in enumerate(self._question.postpone_choices_s):
            answer = Answer(choice=Choice.POSTPONE, postpone_s=seconds)
            button = self._button(row, f"postpone {index}", duration(seconds), answer)
            line, column = divmod(index, POSTPONE_COLUMNS)
            left = 0 if column == 0 else gap
            button.grid(row=line, column=1 + column, sticky="ew", padx=(left, 0), pady=(0, self._px(6)))
            row.columnconfigure(1 + column, weight=1)
        return row

    def _draw_decisions(self) -> ttk.Frame:
        row = ttk.Frame(self._frame)
        row.columnconfigure(0, weight=1)
        if self._question.may_cancel:
            text = cancel_label(self._question)
            button = self._button(row, "cancel", text, Answer(choice=Choice.CANCEL))
            button.configure(underline=0)
            button.grid(row=0, column=0, sticky="w")
        text = now_label(self._question)
        button = self._button(row, "now", text, Answer(choice=Choice.NOW))
        button.configure(style="Now.TButton", underline=len(text) - 3)
        button.grid(row=0, column=1, sticky="e")
        return row

    def _button(self, row: ttk.Frame, name: str, text: str, answer: Answer) -> ttk.Button:
        button = ttk.Button(row, text=text, command=lambda: self._finish(answer))
        button.state(["disabled"])
        button.bind("<Return>", lambda _event: button.invoke())
        self.buttons[name] = button
        return button

    # Sizes

    def _fit(self, height_px: int) -> bool:
        """Set the height of the message; return whether all widgets fit into ``height_px`` and the page's width."""
        if self._question.message:
            self._lay_out_message(MESSAGE_PX_MIN)
            self._root.update_idletasks()
            spare = height_px - (self._frame.winfo_reqheight() - self._box.winfo_reqheight())
            self._lay_out_message(min(spare, self._px(MESSAGE_PX_MAX)))
        self._root.update_idletasks()
        return self._frame.winfo_reqheight() <= height_px and self._frame.winfo_reqwidth() <= self._width

    def _lay_out_message(self, most_px: int) -> None:
        """Make the box as high as the message, or ``most_px`` with a scroll bar."""
        line_px = self._px(3)
        needed = self._text_height(self._inner_px - line_px)
        least = min(needed, self._px(MESSAGE_PX_MIN))
        height = min(needed, max(most_px, least))
        self.scrolls = height < needed
        self._box.configure(height=height)
        self._text.configure(takefocus=self.scrolls)
        bar_px = self._scroll_bar.winfo_reqwidth() if self.scrolls else 0
        self._text.place(x=line_px, y=0, width=self._inner_px - line_px - bar_px, height=height)
        if self.scrolls:
            self._scroll_bar.place(x=self._inner_px - bar_px, y=0, width=bar_px, height=height)
        else:
            self._scroll_bar.place_forget()

    def _text_height(self, width_px: int) -> int:
        """Return the height of the message at the width ``width_px``, measured on the laid-out text."""
        self._text.place(x=0, y=0, width=width_px, height=100)
        self._root.update_idletasks()
        text = str(self._text)
        lines_px = int(self._root.tk.call(text, "count", "-update", "-ypixels", "1.0", "end"))
        around = int(str(self._text.cget("pady"))) + int(str(self._text.cget("highlightthickness")))
        return lines_px + 2 * around
