"""Text for a terminal is safe and aligned."""

import json

import pytest

from landline.cli.formatting import duration_text, local_time
from landline.cli.tables import CELL_COLUMNS_MAX, Cell, fitting_columns, table_lines
from landline.cli.terminal_text import Colour, printable, printable_json, shortened, width

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\r\nnext\x9b5n\u202eevil\u2028\x7f\ud800"


def test_control_and_formatting_characters_are_replaced():
    safe = printable(HOSTILE)
    assert safe.isprintable()
    assert "red" in safe
    assert "evil" in safe
    assert not set(safe) & set("\x1b\x07\r\n\x9b\u202e\u2028\x7f")
    safe.encode()


@pytest.mark.parametrize("text", ["lab-1", "Büro 3", "教室-1", "é"])
def test_printable_text_is_unchanged(text):
    assert printable(text) == text


def test_every_character_a_terminal_may_obey_is_replaced():
    for number in [
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0x200B, 0x2010),
        *range(0x2028, 0x202F),
        0x2066,
        0xFEFF,
    ]:
        stand_in = " " if chr(number).isspace() else "\N{REPLACEMENT CHARACTER}"
        assert printable(chr(number)) == stand_in, hex(number)


def test_printable_json_is_the_same_json():
    text = '{\n  "name": "a\u009b5n\u202eb\x7f"\n}'
    safe = printable_json(text)
    assert json.loads(safe) == json.loads(text)
    assert not set(safe) & set("\u009b\u202e\x7f")


def test_tables_are_aligned_and_cut():
    lines = table_lines(
        ("NAME", "OS"),
        [
            [Cell("教室"), Cell("Debian")],
            [Cell("b\x1b[31m", Colour.GOOD), Cell("")],
            [Cell("x" * 500), Cell("y")],
        ],
        colours=False,
    )
    assert [
        width(line[: line.index(word)]) for line, word in zip(lines, ["OS", "Debian", "-", "y"], strict=True)
    ] == [CELL_COLUMNS_MAX + 2] * 4
    assert "\x1b" not in "".join(lines)


def test_colours_do_not_disturb_the_alignment():
    plain = table_lines(("A", "B"), [[Cell("x", Colour.GOOD), Cell("y")]], colours=False)
    coloured = table_lines(("A", "B"), [[Cell("x", Colour.GOOD), Cell("y")]], colours=True)
    assert coloured[1] == "\x1b[32mx\x1b[0m  y"
    assert plain[1] == "x  y"


def test_combining_marks_are_limited():
    assert printable("a" + "\u0301" * 500 + "b") == "a\u0301\u0301\u0301\u0301b"
    # Thai, Hebrew with vowels, Vietnamese: as they are.
    for text in ("ที่นี่", "שָׁלוֹם", "Việt Nam"):
        assert printable(text) == text


def test_combining_marks_take_no_column_and_are_cut():
    assert width("e\u0301") == width("ก\u0e31") == width("a\u20dd") == 1
    many = printable("a" + "\u0301" * 4) * 100
    assert width(many) == 100
    cut = shortened(many, 10)
    assert (len(cut), cut[-1]) == (20, "…")
    assert width(cut) <= 10
    [_, line] = table_lines(["OS"], [[Cell("a" + "\u0301" * 100_000 + "b" * 100)]], colours=False)
    assert len(line) <= 2 * CELL_COLUMNS_MAX


def test_shortened():
    assert shortened("hello", 5) == "hello"
    assert shortened("hello!", 5) == "hell…"
    assert width(shortened("教室教室", 5)) == 5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h 00 min"), (90_000, "1 d 1 h")],
)
def test_duration_text(seconds, text):
    assert duration_text(seconds) == text


def test_local_time_has_the_date_of_another_day():
    assert len(local_time(1_750_000_000, 1_750_000_000)) == len("12:34:56")
    assert len(local_time(1_750_000_000, 1_750_000_000 + 90_000)) == len("2025-06-15 12:34:56")


@pytest.mark.parametrize(
    ("columns", "indexes"),
    [(100, [0, 1, 2, 3]), (20, [0, 1, 2, 3]), (19, [0, 1, 3]), (13, [0, 1, 3]), (12, [0, 1]), (1, [0, 1])],
)
def test_fitting_columns(columns, indexes):
    header = ("NAME", "IS", "HOST", "OS")
    rows = [
        [Cell("lab-1"), Cell("on"), Cell("a.b"), Cell("ä")],
        [Cell("x"), Cell(""), Cell("a.bcd"), Cell("")],
    ]
    # Five, two, five and two columns, and two between each of them.
    assert fitting_columns(header, rows, columns, ("HOST", "OS")) == indexes


def test_fitting_columns_of_an_empty_table():
    assert fitting_columns(("NAME", "OS"), [], 8, ("OS",)) == [0, 1]
    assert fitting_columns(("NAME", "OS"), [], 7, ("OS",)) == [0]
