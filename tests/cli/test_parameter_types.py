"""Durations, as operators type them."""

import pytest

from landline.cli.exit_codes import WrongUse
from landline.cli.parameter_types import parse_duration
from landline.cli.terminal_text import printable


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5),
        ("0s", 0),
        ("2m", 120),
        ("1h30m", 5400),
        ("8h", 28_800),
        ("1d2h3m4s", 93_784),
        ("365d", 31_536_000),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text, "--in") == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "-5s", "1.5h", "5s2m", "5ss", "1h1h", "５s", "5s\n", "2x", "1e3s"]
)
def test_other_texts_are_no_durations(text):
    with pytest.raises(WrongUse) as caught:
        parse_duration(text, "--in")
    assert str(caught.value) == (
        f"--in takes a duration such as 30s, 2m, 8h or 1h30m, not '{printable(text)}'; give the unit too."
    )


def test_a_duration_of_more_than_a_year_is_refused():
    with pytest.raises(WrongUse, match="at most a year"):
        parse_duration("99999d", "--queue-for")
    with pytest.raises(WrongUse, match="at most a year"):
        parse_duration("9" * 5000 + "s", "--queue-for")
