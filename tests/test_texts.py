"""Texts from outside: one line, no steering, not long."""

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from landline import safe_text
from landline.texts import SAFE_CHARACTERS_MAX


def test_harmless_text_is_unchanged():
    for text in (
        "",
        "lab-1",
        "Büro 2, 東京",
        "it's <b>bold</b> & 50 %",
        "x" * SAFE_CHARACTERS_MAX,
        "a\u00a0b",
    ):
        assert safe_text(text) == text


def test_characters_that_control_a_terminal_or_start_a_line_are_replaced():
    assert safe_text("a\nb\r\nc\td") == "a b  c d"
    assert safe_text("\x1b[2J\x9b1m\x07\x00") == "\ufffd[2J\ufffd1m\ufffd\ufffd"
    # Right-to-left override, isolate, zero-width joiner, byte order mark, line separator.
    assert safe_text("a\u202eb\u2066c\u200dd\ufeffe\u2028f") == "a\ufffdb\ufffdc\ufffdd\ufffde f"
    assert safe_text("half \ud800 pair") == "half \ufffd pair"


def test_a_long_text_is_cut():
    assert safe_text("x" * 201) == "x" * 199 + "…"
    assert safe_text("x" * 11, 10) == "x" * 9 + "…"
    assert safe_text("x" * 10_000, None) == "x" * 10_000


@given(st.text(), st.integers(1, 50))
@example("\U000e0001tag", 50)
def test_no_harmful_character_is_left(text, characters_max):
    safe = safe_text(text, characters_max)
    assert len(safe) <= characters_max
    assert not {unicodedata.category(character) for character in safe} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(safe.splitlines()) <= 1
    safe.encode()
