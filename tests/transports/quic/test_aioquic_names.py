"""The private names of aioquic that landline uses: each exists, is explained, and is used in one module only."""

import ast
import inspect
import time
from pathlib import Path
from types import ModuleType

import pytest
from aioquic.quic import connection as aioquic_connection
from aioquic.quic import stream as aioquic_stream
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

import landline.transports.quic
from landline.transports.quic import connection as line_connection
from landline.transports.quic import sockets, transport

CONNECTION = {
    "_close_event",
    "_crypto_buffers",
    "_crypto_streams",
    "_cryptos",
    "_datagrams_pending",
    "_handle_crypto_frame",
    "_handle_stream_frame",
    "_local_max_data",
    "_local_max_streams_bidi",
    "_local_max_streams_uni",
    "_network_paths",
    "_on_connection_limit_delivery",
    "_on_max_stream_data_delivery",
    "_remote_max_datagram_frame_size",
    "_spaces",
    "_state",
    "_streams",
    "_write_connection_limits",
    "_write_stream_limits",
}
SENDER = {"_buffer_start", "_reset_error_code"}
RECEIVER = {"_ranges"}
OVERRIDDEN = [name for name in sorted(CONNECTION) if name.startswith(("_handle_", "_write_"))]


def private_names(module: ModuleType) -> set[str]:
    """Return the private attributes that a module uses or overrides without defining them itself."""
    tree = ast.parse(inspect.getsource(module))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    stored = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    inherited = {name for name in defined if hasattr(QuicConnection, name)}
    return {name for name in (used - stored - defined) | inherited if name[0] == "_" and name[1] != "_"}


@pytest.fixture
def connection() -> QuicConnection:
    """A client of aioquic that has opened a stream."""
    made = QuicConnection(configuration=QuicConfiguration(is_client=True))
    made.connect(("127.0.0.1", 1), now=time.monotonic())
    made.send_stream_data(0, b"data")
    return made


def test_the_list_is_complete():
    assert private_names(line_connection) == CONNECTION | SENDER | RECEIVER


def test_the_list_is_explained():
    explained = inspect.getdoc(line_connection) or ""
    for name in CONNECTION | SENDER | RECEIVER:
        assert f"``{name}``" in explained


def test_no_other_module_uses_private_names_of_aioquic():
    folder = Path(landline.transports.quic.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", "connection", "sockets", "transport"}
    of_aioquic = {name for name in vars(aioquic_connection.QuicConnection) if name.startswith("_")}
    for module in (sockets, transport):
        assert not private_names(module) & (of_aioquic | SENDER | RECEIVER)


@pytest.mark.parametrize("name", sorted(CONNECTION))
def test_a_connection_of_aioquic_has_the_name(connection, name):
    assert hasattr(connection, name)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_overridden_method_has_the_same_parameters(name):
    ours = inspect.signature(getattr(line_connection.LineConnection, name))
    theirs = inspect.signature(getattr(QuicConnection, name))
    assert list(ours.parameters) == list(theirs.parameters)


def test_the_stream_of_aioquic_has_the_names(connection):
    [stream] = connection._streams.values()
    assert isinstance(stream, aioquic_stream.QuicStream)
    assert all(hasattr(stream.sender, name) for name in SENDER)
    assert all(hasattr(stream.receiver, name) for name in RECEIVER)
    assert (stream.sender._buffer_start, stream.sender._reset_error_code) == (0, None)
