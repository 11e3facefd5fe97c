"""The origin check: which web pages may connect."""

import pytest

from landline.transports.origins import is_allowed


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "expected"),
    [
        (None, "example.org", (), True),
        (None, None, (), True),
        ("https://example.org", "example.org", (), True),
        ("http://example.org:8080", "example.org:8080", (), True),
        ("http://example.org", "example.org:8080", (), False),
        ("https://example.org.evil.example", "example.org", (), False),
        ("https://evil.example", "example.org", (), False),
        ("https://evil.example", "example.org", ("https://good.example",), False),
        ("https://good.example", "example.org", ("https://good.example",), True),
        ("http://good.example", "example.org", ("https://good.example",), False),
        ("https://any.example", "example.org", ("*",), True),
        ("null", "example.org", (), False),
        ("null", "example.org", ("null",), True),
        ("", "example.org", (), False),
        ("http://", "", (), False),
        ("http://None", None, (), False),
    ],
)
def test_which_pages_may_connect(origin, host, allowed, expected):
    assert is_allowed(origin, host, allowed) is expected
