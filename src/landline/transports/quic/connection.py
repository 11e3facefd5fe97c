"""The QUIC connection of a line: aioquic's, with the limits that aioquic does not set.

aioquic's :class:`QuicConnection` does no I/O and takes the time as an argument. It doubles its flow-control windows
without limit, lets a peer open 128 streams of each kind, buffers everything that is written, and reports a closed
connection only after three probe timeouts.

Private names of aioquic are used in this module only, so ``pyproject.toml`` allows only its minor version 1.7, and
``tests/transports/quic/test_aioquic_names.py`` fails if one of them is gone. They are needed because aioquic has no
public way to

- fix the number of streams (``_local_max_streams_bidi``, ``_local_max_streams_uni``) and move the flow-control windows
  (``_local_max_data``, ``_write_connection_limits``, ``_write_stream_limits``, ``_on_connection_limit_delivery``,
  ``_on_max_stream_data_delivery``);
- count what the peer has not acknowledged (``_streams``, ``_buffer_start``), or see that it has stopped the stream
  (``_reset_error_code``);
- limit the number of pieces received out of order (``_handle_crypto_frame``, ``_handle_stream_frame``,
  ``_crypto_streams``, ``_ranges``);
- learn which datagrams the peer accepts and how many wait (``_remote_max_datagram_frame_size``,
  ``_datagrams_pending``);
- see the state of a connection at once (``_state``, ``_close_event``), and its key phase (``_cryptos``);
- release the handshake's buffers (``_crypto_buffers``);
- send an acknowledgement with data (``_spaces``), and limit amplification when it closes (``_network_paths``).
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
"""How far a peer may send ahead of what the protocol has read: the memory that a gap in its data can take."""
PIECES_MAX: Final = 256
"""How many pieces of a stream may be kept after gaps. aioquic searches all of them for each frame: 300,000 pieces of
one byte, 2 MB to send, would take minutes, and any peer can write to the stream of the handshake. The window holds 900
full packets; this many gaps mean that every second of them is lost."""
AMPLIFICATION_MAX: Final = 3
"""How many bytes may be sent to an unproven address for each byte received from it (RFC 9000 section 8.1)."""
CONNECTION_ID_BYTES: Final = 8
DATAGRAM_FRAME_BYTES: Final = 65_535
"""The longest DATAGRAM frame that is accepted: RFC 9221 section 3 recommends to accept whatever fits into a packet."""
IDLE_TIMEOUT_S: Final = 180_000.0
"""Longer than the longest heartbeat of a session (two days): detecting a dead peer is the task of the session."""
PACKETS_PER_KEY: Final = 1 << 20
"""After this number of packets a client updates the keys, a server after twice as many. RFC 9001 section 6.6 allows
eight times as many with AES-GCM, about 10 GB; aioquic does not do it by itself."""
_PACKET_OVERHEAD_BYTES: Final = 1 + 20 + 2 + 16
"""The overhead of a packet with a short header (RFC 9000 section 17.3.1): flags, the longest connection id, the packet
number as aioquic writes it, and the tag of the cipher."""
_DATAGRAM_FRAME_OVERHEAD_BYTES: Final = 1 + 2


class LineConnection(QuicConnection):
    """A QUIC connection with one stream, and with windows that slide instead of growing."""

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
        self.read_bytes = 0
        """How many bytes of the stream the protocol has read; the windows end :data:`WINDOW_BYTES` after them."""
        self._written_bytes = 0
        self._line_stream: QuicStream | None = None
        self._counted_key_phase = 0
        self._key_packets = 0
        # If both sides updated the keys at the same time, the packets in flight would have to be sent again.
        self._key_packets_max = PACKETS_PER_KEY * (1 if configuration.is_client else 2)
        for limit, count in (
            (self._local_max_streams_bidi, 0 if configuration.is_client else 1),
            (self._local_max_streams_uni, 0),
        ):
            limit.value = limit.sent = count

    # Stream

    def send(self, data: bytes | bytearray | memoryview, *, end: bool = False) -> bool:
        """Queue bytes of the stream; a client opens the stream with its first ones.

        Return whether they are queued: ``False`` if the peer has stopped the stream.
        """
        stream = self._stream
        if stream is not None and (stream.sender._reset_error_code is not None or stream.sender.is_finished):
            return False
        self.send_stream_data(STREAM_ID, data if isinstance(data, bytes) else bytes(data), end)
        self._written_bytes += len(data)
        return True

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes of the stream, sent or not, that are kept until the peer acknowledges them."""
        stream = self._stream
        return self._written_bytes - stream.sender._buffer_start if stream else 0

    @property
    def unsent_bytes(self) -> int:
        """Bytes of the stream that have not been sent yet."""
        stream = self._stream
        return self._written_bytes - stream.sender.highest_offset if stream else 0

    @property
    def is_delivered(self) -> bool:
        """Whether the peer has acknowledged the end of the stream, and so all data before it."""
        stream = self._stream
        return stream is not None and stream.sender.is_finished

    @property
    def _stream(self) -> QuicStream | None:
        if self._line_stream is None:
            self._line_stream = self._streams.get(STREAM_ID)
        return self._line_stream

    # Datagrams (RFC 9221)

    @property
    def datagram_bytes_max(self) -> int:
        """The longest datagram, in bytes, that fits into a packet and that the peer accepts; 0 if it accepts none."""
        accepted = self._remote_max_datagram_frame_size
        if accepted is None:
            return 0
        payload_max = SMALLEST_MAX_DATAGRAM_SIZE - _PACKET_OVERHEAD_BYTES
        return max(0, min(payload_max, accepted) - _DATAGRAM_FRAME_OVERHEAD_BYTES)

    @property
    def datagrams_waiting(self) -> int:
        """How many datagrams wait for congestion control."""
        return len(self._datagrams_pending)

    # State

    @property
    def has_started(self) -> bool:
        """Whether a packet that could be decrypted has arrived."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def key_phase(self) -> int:
        """0 or 1; it changes when either side updates the keys (RFC 9001 section 6)."""
        crypto = self._cryptos.get(Epoch.ONE_RTT)
        return crypto.key_phase if crypto is not None else 0

    def release_handshake(self) -> None:
        """Free the buffers into which TLS has written its handshake (9 KB per line).

        The streams of the handshake hold what has to be sent again, and TLS writes nothing more with its keys.
        """
        for epoch in (Epoch.INITIAL, Epoch.HANDSHAKE):
            self._crypto_buffers.pop(epoch, None)

    @property
    def closing(self) -> ConnectionTerminated | None:
        """The reason why it is closed, set as soon as either side closes it."""
        return self._close_event

    @property
    def is_closed_by_peer(self) -> bool:
        """Whether the peer has closed it."""
        return self._state is QuicConnectionState.DRAINING

    # Overridden methods

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """Return datagrams as aioquic does, with three differences.

        An acknowledgement that is due soon is sent with waiting data, not in a packet of its own a millisecond later
        (RFC 9000 section 13.2.1): a request and its response take two packets instead of four.

        An unproven address gets at most :data:`AMPLIFICATION_MAX` times the bytes received from it (section 8.1). The
        packet that closes the connection is no exception; aioquic sends that one in any case.

        The keys are updated after :data:`PACKETS_PER_KEY` packets.
        """
        space = self._spaces.get(Epoch.ONE_RTT)
        if space is not None and space.ack_at is not None and space.ack_at > now and self.unsent_bytes:
            space.ack_at = now
        path = self._network_paths[0]
        sent_bytes = path.bytes_sent
        datagrams = super().datagrams_to_send(now)
        self._count_packets(len(datagrams))
        if path.is_validated:
            return datagrams
        allowed = []
        for data, address in datagrams:
            sent_bytes += len(data)
            if sent_bytes <= AMPLIFICATION_MAX * path.bytes_received:
                allowed.append((data, address))
        path.bytes_sent -= sum(len(data) for data, _ in datagrams) - sum(len(data) for data, _ in allowed)
        return allowed

    def _count_packets(self, count: int) -> None:
        """Count the packets of the current keys, and update the keys when they have been used often enough."""
        phase = self.key_phase
        if phase != self._counted_key_phase:
            self._counted_key_phase, self._key_packets = phase, 0
        self._key_packets += count
        if self._key_packets >= self._key_packets_max:
            self._key_packets = 0
            self.request_key_update()

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_crypto_frame(context, frame_type, buf)
        _check_pieces(self._crypto_streams[context.epoch], frame_type)

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_stream_frame(context, frame_type, buf)
        stream = self._stream
        if stream is not None:
            _check_pieces(stream, frame_type)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """Advance MAX_DATA (RFC 9000 section 4.1); the numbers of streams never change."""
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
        """Advance MAX_STREAM_DATA."""
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
        """Return the new end of a window: it advances when half of it is used, so not with every packet."""
        end = self.read_bytes + WINDOW_BYTES
        return end if end - value >= WINDOW_BYTES // 2 else value


def _check_pieces(stream: QuicStream, frame_type: int) -> None:
    """Close a connection that has more than :data:`PIECES_MAX` pieces of a stream."""
    if len(stream.receiver._ranges) > PIECES_MAX:
        raise QuicConnectionError(
            error_code=QuicErrorCode.INTERNAL_ERROR,
            frame_type=frame_type,
            reason_phrase=f"a stream in more than {PIECES_MAX} pieces",
        )


def server_configuration(endpoint: Endpoint, options: TransportOptions) -> QuicConfiguration:
    """Return the configuration of a listener's connections. Raise :class:`ConfigurationError` without a certificate."""
    if options.certificate_file is None:
        raise ConfigurationError(
            f"{endpoint} needs a certificate: pass TransportOptions(certificate_file=..., private_key_file=...) "
            "to listen(); an ssl.SSLContext cannot be used for QUIC"
        )
    configuration = _configuration(is_client=False)
    try:
        chain, key = _read_certificates(options.certificate_file, options.private_key_file)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        # TypeError: the key has a password.
        raise ConfigurationError(
            f"{endpoint}: certificate_file {os.fspath(options.certificate_file)!r} with private_key_file "
            f"{os.fspath(options.private_key_file or '')!r} cannot be used as PEM: {error}"
        ) from error
    if key is None:
        raise ConfigurationError(
            f"{endpoint}: certificate_file {os.fspath(options.certificate_file)!r} contains no private key; "
            "pass private_key_file= as well"
        )
    configuration.certificate, *configuration.certificate_chain = chain
    configuration.private_key = key
    return configuration


def _read_certificates(
    certificate_file: str | os.PathLike[str], key_file: str | os.PathLike[str] | None
) -> tuple[list[x509.Certificate], Any]:
    """Return the certificate chain and the key, in any order and format that the files have them in (RFC 7468).

    aioquic's own reader finds a key only after the certificates, and only as PKCS #8.
    """
    text = Path(certificate_file).read_bytes()
    keys = text if key_file is None else Path(key_file).read_bytes()
    key = _find_key(keys)
    return x509.load_pem_x509_certificates(text), key and serialization.load_pem_private_key(
        key.group(), None
    )


def client_configuration(endpoint: Endpoint, options: TransportOptions) -> QuicConfiguration:
    """Return a client's configuration: it trusts ``ca_file``, or the system's authorities, or those of ``certifi``.

    :raises landline.ConnectFailed: if ``ca_file`` cannot be read. It was checked before: another program may be
        replacing it at this moment.
    """
    configuration = _configuration(is_client=True)
    configuration.server_name = options.server_name or endpoint.host
    if options.ca_file is not None:
        try:
            with open(options.ca_file, "rb") as file:
                configuration.cadata = file.read()
            if b"-----BEGIN CERTIFICATE-----" not in configuration.cadata:
                raise ValueError("it contains no certificate in PEM format")
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
