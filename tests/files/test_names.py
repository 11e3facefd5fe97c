"""Valid and invalid names of files."""

import pytest

from landline.files.names import name_problem


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "photo.raw",
        "Résumé 2.pdf",
        "年報.txt",
        "a" * 255,
        "con-text",
        "commander.txt",
        "com10",
        "a..b",
        "-rf",
        "~x",
        "🙂.png",
    ],
)
def test_valid_names(name):
    assert name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "empty"),
        (".", "hidden"),
        ("..", "hidden"),
        (".bashrc", "hidden"),
        (".landline-0.part", "hidden"),
        ("../x", "hidden"),
        ("a/b", "'/'"),
        ("/etc/passwd", "'/'"),
        ("a\\b", "allowed"),
        ("c:x", "':'"),
        ("file.txt:stream", "':'"),
        ("a\0b", "U+0000"),
        ("a\nb", "U+000A"),
        ("a\x1b[2Jb", "U+001B"),
        ("invoice\u202efdp.exe", "U+202E"),
        ("a\u2028b", "U+2028"),
        ("\ud800", "not valid Unicode"),
        ("x" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("CON", "device"),
        ("nul.txt", "device"),
        ("Com1.tar.gz", "device"),
        ("LPT³", "device"),
        ("aux .txt", "device"),
        ("CONIN$", "device"),
        ("a.", "ends with a dot"),
        ("a ", "space"),
        (" a", "space"),
        ("what?", "'?'"),
    ],
)
def test_invalid_names(name, problem):
    assert problem in name_problem(name)
