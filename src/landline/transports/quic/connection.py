"""One QUIC connection for one line: aioquic's, with everything it leaves open bounded.

aioquic's :class:`QuicConnection` does no I/O and takes the time as an argument. It doubles its flow-control windows
without an end, lets a peer open 128 streams of each kind, buffers whatever is written, and tells of a closed connection
only after three probe timeouts. All that depends on names it does not promise stands in this file.
"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import Any, Final

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it re-exports without saying so
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from landline.errors import ConfigurationError, ConnectFailed
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint

_find_key: Final = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL).search

ALPN: Final = "landline/1"
STREAM_ID: Final = 0
"""The first bidirectional stream a client opens (RFC 9000 section 2.1)."""
WINDOW_BYTES: Final = 1024 * 1024
"""How far a peer may send ahead of what our protocol has taken: what a hole in its data can make us keep."""
PIECES_MAX: Final = 256
"""How many pieces of a stream are kept behind holes. aioquic looks through them with each frame: 300,000 of one byte,
2 MB to send, would be minutes of work, and the stream of the handshake is anybody's. The window holds 900 full packets;
so many holes at once are half of them lost in turns."""
AMPLIFICATION_MAX: Final = 3
CONNECTION_ID_BYTES: Final = 8
DATAGRAM_FRAME_BYTES: Final = 65_535
"""The longest DATAGRAM frame taken: RFC 9221 section 3 asks for whatever fits a packet."""
IDLE_TIMEOUT_S: Final = 180_000.0
"""More than the longest heartbeat a session can have (two days): that a peer is dead is for the session to notice."""
_PACKET_OVERHEAD_BYTES: Final = 1 + 20 + 2 + 16
"""Of a packet with a short header (RFC 9000 section 17.3.1): flags, the longest connection id, packet number as aioquic
writes it, and the tag of the cipher."""
_DATAGRAM_FRAME_OVERHEAD_BYTES: Final = 1 + 2


class LineConnection(QuicConnection):
    """A QUIC connection that carries one stream, with windows that slide instead of growing."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        *,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self.taken_bytes = 0
        """Bytes of the stream that our protocol has taken; the windows end :data:`WINDOW_BYTES` behind them."""
        self._line_stream: QuicStream | None = None
        for limit, count in (
            (self._local_max_streams_bidi, 0 if configuration.is_client else 1),
            (self._local_max_streams_uni, 0),
        ):
            limit.value = limit.sent = count

    # The stream.

    def send(self, data: bytes | bytearray | memoryview, *, end: bool = False) -> bool:
        """Queues bytes of the stream, which a client opens with its first ones.

        Returns whether they are queued: not where the peer does not want any more.
        """
        stream = self._stream
        if stream is not None and (stream.sender._reset_error_code is not None or stream.sender.is_finished):
            return False
        self.send_stream_data(STREAM_ID, data if isinstance(data, bytes) else bytes(data), end)
        return True

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes of the stream that are kept because the peer has not acknowledged them, sent or not."""
        stream = self._stream
        return stream.sender._buffer_stop - stream.sender._buffer_start if stream else 0

    @property
    def unsent_bytes(self) -> int:
        """Bytes of the stream that were never sent yet."""
        stream = self._stream
        return stream.sender._buffer_stop - stream.sender.highest_offset if stream else 0

    @property
    def is_delivered(self) -> bool:
        """Whether the peer has acknowledged the end of our half of the stream, and so everything before it."""
        stream = self._stream
        return stream is not None and stream.sender.is_finished

    @property
    def _stream(self) -> QuicStream | None:
        if self._line_stream is None:
            self._line_stream = self._streams.get(STREAM_ID)
        return self._line_stream

    # Datagrams (RFC 9221).

    @property
    def datagram_bytes_max(self) -> int:
        """The longest datagram the peer takes and one packet carries; 0 where the peer takes none."""
        taken = self._remote_max_datagram_frame_size
        if taken is None:
            return 0
        room = SMALLEST_MAX_DATAGRAM_SIZE - _PACKET_OVERHEAD_BYTES
        return max(0, min(room, taken) - _DATAGRAM_FRAME_OVERHEAD_BYTES)

    @property
    def datagrams_waiting(self) -> int:
        """How many datagrams congestion control has not let out yet."""
        return len(self._datagrams_pending)

    # Its life.

    @property
    def has_begun(self) -> bool:
        """Whether a packet that could be decrypted came."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def key_phase(self) -> int:
        """0 or 1; the other one once either side has changed the keys (RFC 9001 section 6)."""
        crypto = self._cryptos.get(Epoch.ONE_RTT)
        return crypto.key_phase if crypto is not None else 0

    def forget_handshake(self) -> None:
        """Frees the buffers in which TLS wrote its handshake (9 KB of a line): what of it must be repeated stands in
        the streams of the handshake, and TLS writes nothing more in its keys."""
        for epoch in (Epoch.INITIAL, Epoch.HANDSHAKE):
            self._crypto_buffers.pop(epoch, None)

    @property
    def closing(self) -> ConnectionTerminated | None:
        """Why it is closed, as soon as either side decided so."""
        return self._close_event

    @property
    def is_closed_by_peer(self) -> bool:
        """Whether it was the peer that closed it."""
        return self._state is QuicConnectionState.DRAINING

    # Overridden.

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """As aioquic's, but an acknowledgement that is due soon goes with the data there is, not in a packet of its own
        a millisecond later (RFC 9000 section 13.2.1): a request and its answer are two packets, not four.

        An address that has proven nothing gets three times the bytes that came from it at most (section 8.1), what
        closes the connection included, which aioquic sends in any case.
        """
        space = self._spaces.get(Epoch.ONE_RTT)
        if space is not None and space.ack_at is not None and space.ack_at > now and self.unsent_bytes:
            space.ack_at = now
        path = self._network_paths[0]
        sent_bytes = path.bytes_sent
        datagrams = super().datagrams_to_send(now)
        if path.is_validated:
            return datagrams
        allowed = []
        for data, address in datagrams:
            sent_bytes += len(data)
            if sent_bytes <= AMPLIFICATION_MAX * path.bytes_received:
                allowed.append((data, address))
        path.bytes_sent -= sum(len(data) for data, _ in datagrams) - sum(len(data) for data, _ in allowed)
        return allowed

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_crypto_frame(context, frame_type, buf)
        _check_pieces(self._crypto_streams[context.epoch], frame_type)

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_stream_frame(context, frame_type, buf)
        stream = self._stream
        if stream is not None:
            _check_pieces(stream, frame_type)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """Moves MAX_DATA (RFC 9000 section 4.1) on; the numbers of streams never change."""
        limit = self._local_max_data
        limit.value = self._slide(limit.value)
        if limit.value != limit.sent:
            buffer = builder.start_frame(
                QuicFrameType.MAX_DATA,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buffer.push_uint_var(limit.value)
            limit.sent = limit.value

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        """Moves MAX_STREAM_DATA on."""
        stream.max_stream_data_local = self._slide(stream.max_stream_data_local)
        if stream.max_stream_data_local != stream.max_stream_data_local_sent:
            buffer = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buffer.push_uint_var(STREAM_ID)
            buffer.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _slide(self, value: int) -> int:
        """The end of a window: moved once half of it is used, so that not every packet moves it."""
        end = self.taken_bytes + WINDOW_BYTES
        return end if end - value >= WINDOW_BYTES // 2 else value


def _check_pieces(stream: QuicStream, frame_type: int) -> None:
    """Ends a connection that keeps more than :data:`PIECES_MAX` pieces."""
    if len(stream.receiver._ranges) > PIECES_MAX:
        raise QuicConnectionError(
            error_code=QuicErrorCode.INTERNAL_ERROR,
            frame_type=frame_type,
            reason_phrase=f"a stream in more than {PIECES_MAX} pieces",
        )


def server_configuration(endpoint: Endpoint, options: TransportOptions) -> QuicConfiguration:
    """What a listener's connections share. Raises :class:`ConfigurationError` without a usable certificate."""
    if options.certificate_file is None:
        raise ConfigurationError(
            f"{endpoint} needs a certificate: pass TransportOptions(certificate_file=..., private_key_file=...) "
            "to listen(); an ssl.SSLContext cannot be used for QUIC"
        )
    configuration = _configuration(is_client=False)
    try:
        chain, key = _read_certificates(options.certificate_file, options.private_key_file)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        # TypeError for a key with a password.
        raise ConfigurationError(
            f"{endpoint}: certificate_file {os.fspath(options.certificate_file)!r} with private_key_file "
            f"{os.fspath(options.private_key_file or '')!r} cannot be used as PEM: {error}"
        ) from error
    if key is None:
        raise ConfigurationError(
            f"{endpoint}: certificate_file {os.fspath(options.certificate_file)!r} holds no private key; "
            "pass private_key_file= as well"
        )
    configuration.certificate, *configuration.certificate_chain = chain
    configuration.private_key = key
    return configuration


def _read_certificates(
    certificate_file: str | os.PathLike[str], key_file: str | os.PathLike[str] | None
) -> tuple[list[x509.Certificate], Any]:
    """The chain and the key, in whatever order and form they stand in the files (RFC 7468).

    aioquic's own reader finds a key only behind the certificates, and only as PKCS #8.
    """
    text = Path(certificate_file).read_bytes()
    keys = text if key_file is None else Path(key_file).read_bytes()
    key = _find_key(keys)
    return x509.load_pem_x509_certificates(text), key and serialization.load_pem_private_key(
        key.group(), None
    )


def client_configuration(endpoint: Endpoint, options: TransportOptions) -> QuicConfiguration:
    """How a client checks its server: against ``ca_file``, or the system's certificates, or those of ``certifi``.

    Raises :class:`landline.ConnectFailed` when ``ca_file`` cannot be used any more: it may be replaced just now.
    """
    configuration = _configuration(is_client=True)
    configuration.server_name = options.server_name or endpoint.host
    if options.ca_file is not None:
        try:
            with open(options.ca_file, "rb") as file:
                configuration.cadata = file.read()
            if b"-----BEGIN CERTIFICATE-----" not in configuration.cadata:
                raise ValueError("there is no PEM certificate in it")
        except (OSError, ValueError) as error:
            raise ConnectFailed(
                f"TransportOptions(ca_file=): {os.fspath(options.ca_file)!r} cannot be used: {error}"
            ) from error
    else:
        found = ssl.get_default_verify_paths()
        configuration.cafile, configuration.capath = found.cafile, found.capath
    return configuration


def _configuration(*, is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=IDLE_TIMEOUT_S,
        max_data=WINDOW_BYTES,
        max_stream_data=WINDOW_BYTES,
        max_datagram_frame_size=DATAGRAM_FRAME_BYTES,
        supported_versions=[QuicProtocolVersion.VERSION_1],
    )
