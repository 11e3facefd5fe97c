import pytest

from landline.codes import Code, code_from_wire

RETRY = {"GOING_AWAY", "OVERLOADED", "HANDSHAKE_TIMEOUT", "TOO_SLOW", "LINK_REPLACED"}
"""The codes after which a client connects again; see the table of docs/protocol.md §8.1."""


def test_which_codes_invite_the_peer_back() -> None:
    assert {code.name for code in Code if code.may_return} == RETRY


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (100, Code.GOING_AWAY),
        (105, Code.LINK_REPLACED),
        (200, Code.NORMAL),
        (207, Code.LIMIT_EXCEEDED),
        # Unknown numbers stand for their range.
        (-1, Code.GOING_AWAY),
        (0, Code.GOING_AWAY),
        (102, Code.GOING_AWAY),
        (199, Code.GOING_AWAY),
        (208, Code.NORMAL),
        (299, Code.NORMAL),
        (2**64, Code.NORMAL),
    ],
)
def test_a_number_becomes_a_known_code(number: int, code: Code) -> None:
    assert code_from_wire(number) is code
