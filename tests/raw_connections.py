"""Raw connections to a server: the test writes and reads each frame itself."""

import asyncio
import contextlib
import random

import landline
from landline.session.bodies import Reject, ResumeTicket, decode_body
from landline.session.constants import Kind
from landline.session.handshake import ClientHandshake


@contextlib.asynccontextmanager
async def raw_connection(endpoint):
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def read_frame(reader) -> tuple[int, bytes]:
    length = int.from_bytes(await reader.readexactly(4), "big")
    frame = await reader.readexactly(length)
    return frame[0], frame[1:]


async def read_refusal(reader) -> Reject:
    """Read the REJECT after the CHALLENGE, and the end of the connection."""
    kind, _ = await read_frame(reader)
    assert kind == Kind.CHALLENGE
    kind, body = await read_frame(reader)
    assert kind == Kind.REJECT
    assert await reader.read() == b"", "a reset could have destroyed the REJECT"
    return decode_body(body, Reject)


async def shake_hands(reader, writer, *, resume: ResumeTicket | None = None) -> ClientHandshake:
    it = ClientHandshake(
        random=random.SystemRandom(),
        auth=landline.Anonymous(),
        identity="raw",
        limits=landline.Limits(),
        resume=resume,
    )
    while it.welcome is None:
        it.feed(await reader.read(65536))
        writer.write(it.data_to_send())
    return it
