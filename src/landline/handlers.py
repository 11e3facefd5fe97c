"""Which function answers which message, and how bodies become values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from landline.errors import ConfigurationError

if TYPE_CHECKING:
    from landline.files.exchange import FileExchange
    from landline.line import Line

HandlerFunction = Callable[["Line", Any], Any]
Function = TypeVar("Function", bound=Callable[..., Any])

RESERVED_PREFIX: Final = "landline."
"""Names that begin so are the library's own (``docs/protocol.md`` §5.7)."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
# What msgspec lets through beside its own error: text that is not UTF-8, and values nested without end.
_NOT_DECODED = (UnicodeDecodeError, RecursionError)


class Handler:
    """A function for one name, and the type its bodies are converted to.

    A plain function is called at once inside the event loop, which is the fast path: it must not block. A
    coroutine function runs as a task where it answers requests, and one after the other where it takes messages.
    """

    __slots__ = ("_body_type", "decode", "function", "is_async", "is_reserved")

    def __init__(self, function: HandlerFunction, body_type: Any, *, is_reserved: bool = False) -> None:
        self.function = function
        self.is_reserved = is_reserved
        """One of the library's own: its messages do not wait for those of the application, whose handlers may be
        waiting for them."""
        self.is_async = inspect.iscoroutinefunction(function)
        self._body_type = body_type
        self.decode: Callable[[bytes], Any] = (
            _decode if body_type is Any else msgspec.msgpack.Decoder(body_type).decode
        )

    def body_of(self, body: bytes, is_packed: bool) -> Any:
        """The value for the function. Raises :class:`msgspec.DecodeError` when the body does not fit the type."""
        if is_packed:
            try:
                return self.decode(body)
            except _NOT_DECODED as error:
                raise msgspec.DecodeError(str(error)) from error
        if self._body_type is Any or self._body_type is bytes:
            return body
        raise msgspec.ValidationError(f"expected a value of {self._body_type}, got raw bytes")


class Handlers:
    """The handlers of one server or one client."""

    __slots__ = ("_by_name", "files", "message", "plain_message")

    def __init__(self) -> None:
        self._by_name: dict[str, Handler] = {}
        self.files: FileExchange | None = None
        """What is sent and received; made by the first use."""
        self.message: Handler | None = None
        """Takes messages without a name; without it they wait for ``async for``."""
        self.plain_message: HandlerFunction | None = None
        """The function of :attr:`message` where it is a plain one."""

    def on(self, name: str, body_type: Any = Any) -> Callable[[Function], Function]:
        """Registers a function for requests and messages called ``name`` (1 to 255 bytes of UTF-8).

        What it returns answers a request; what a message's handler returns is dropped. With ``body_type``, bodies
        are checked and converted by msgspec, and a request whose body does not fit is answered with an error.
        Raises :class:`ConfigurationError` for a name that is taken, too long, or reserved.
        """
        if name.startswith(RESERVED_PREFIX):
            raise ConfigurationError(
                f"names that begin with {RESERVED_PREFIX!r} are reserved; choose another than {name[:40]!r}"
            )
        if not 0 < len(name.encode()) <= 255:
            raise ConfigurationError(
                f"a handler's name has 1 to 255 bytes, {name[:40]!r} has {len(name.encode())}"
            )
        if name in self._by_name:
            raise ConfigurationError(f"there is a handler for {name!r} already")

        def register(function: Function) -> Function:
            self._by_name[name] = Handler(function, body_type)
            return function

        return register

    def reserve(self, name: str, function: HandlerFunction, body_type: Any) -> None:
        """Registers one of the library's own functions for a name that begins with :data:`RESERVED_PREFIX`."""
        assert name.startswith(RESERVED_PREFIX)
        assert name not in self._by_name
        self._by_name[name] = Handler(function, body_type, is_reserved=True)

    def on_message(self, function: Function) -> Function:
        """Registers a function for messages without a name. Raises :class:`ConfigurationError` for a second one."""
        if self.message is not None:
            raise ConfigurationError("there is a handler for messages already")
        self.message = Handler(function, Any)
        self.plain_message = None if self.message.is_async else function
        return function

    def find(self, name: str) -> Handler | None:
        """The handler for a name, or for messages without one."""
        return self._by_name.get(name) if name else self.message


def encode_value(value: Any) -> tuple[bytes, bool]:
    """A value as bytes, and whether those are MessagePack: bytes-like values travel as they are.

    Raises :class:`TypeError` for values MessagePack has no form for.
    """
    if isinstance(value, bytes):
        return value, False
    if isinstance(value, bytearray | memoryview):
        return bytes(value), False
    return _encode(value), True


def decode_value(body: bytes, is_packed: bool) -> Any:
    """The value of a body. Raises :class:`msgspec.DecodeError` when it says MessagePack and is not."""
    if not is_packed:
        return body
    try:
        return _decode(body)
    except _NOT_DECODED as error:
        raise msgspec.DecodeError(str(error)) from error
