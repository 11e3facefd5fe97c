import pytest

from landline.codes import Code, Operation
from landline.errors import ProtocolError
from landline.session.constants import FLAG_BULK, FLAG_MORE, FLAG_PACKED
from landline.session.events import MessageReceived
from landline.session.frames import DATA_HEADER_BYTES
from landline.session.reassembly import Reassembly


def begun(payload, *, flags=0, name="name", limit_bytes=10):
    return Reassembly(Operation.REQUEST, FLAG_MORE | flags, 7, name, payload, limit_bytes)


@pytest.mark.parametrize("flags", [0, FLAG_PACKED, FLAG_BULK, FLAG_BULK | FLAG_PACKED])
def test_a_reassembled_message_has_the_header_of_its_first_fragment(flags):
    assembly = begun(b"12", flags=flags)
    assembly.add(b"34", 10)
    assembly.add(b"5", 10)
    assert assembly.message(9) == MessageReceived(
        9, Operation.REQUEST, 7, "name", b"12345", bool(flags & FLAG_PACKED), DATA_HEADER_BYTES + 9
    )


def test_a_reassembly_is_refused_above_its_limit():
    assembly = begun(b"12")
    assembly.add(b"3456", 10)
    assert assembly.size_bytes == 10
    with pytest.raises(ProtocolError, match="more than 10 bytes") as refused:
        assembly.add(b"7", 10)
    assert refused.value.code is Code.LIMIT_EXCEEDED


def test_a_first_fragment_above_the_limit_is_refused():
    begun(b"123456")
    with pytest.raises(ProtocolError, match="more than 10 bytes") as refused:
        begun(b"1234567")
    assert refused.value.code is Code.LIMIT_EXCEEDED


def test_an_empty_fragment_is_refused_first_and_later():
    with pytest.raises(ProtocolError, match="empty fragment"):
        begun(b"")
    assembly = begun(b"1")
    with pytest.raises(ProtocolError, match="empty fragment"):
        assembly.add(b"", 10)
