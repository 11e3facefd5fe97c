"""Which function answers which message, and how bodies become values."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import msgspec

from landline.errors import ConfigurationError, RequestError
from landline.packed import MESSAGE_OBJECTS, check_objects

if TYPE_CHECKING:
    from landline.files.exchange import FileExchange

logger = logging.getLogger("landline")

HandlerFunction = Callable[[Any, Any], Any]
"""Takes who sent it, a :class:`landline.Line` or for a call in a datagram a :class:`landline.Caller`, and the value."""
Function = TypeVar("Function", bound=Callable[..., Any])

RESERVED_PREFIX: Final = "landline."
"""Names that begin so are the library's own (``docs/protocol.md`` §5.8)."""

FAILURES: Final = (Exception, asyncio.CancelledError)
"""What a function of the user's can fail with. The cancellation is somebody else's, whose result it asked for: nobody
has cancelled a plain function, and a coroutine only if :func:`is_cancelled` says so."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
# What msgspec lets through beside its own error: text that is not UTF-8, and values nested without end.
_NOT_DECODED = (UnicodeDecodeError, RecursionError)


class Handler:
    """A function for one name, and the type its bodies are converted to.

    A plain function is called at once inside the event loop, which is the fast path: it must not block. A
    coroutine function runs as a task where it answers requests, and one after the other where it takes messages.
    """

    __slots__ = ("_body_type", "_objects_max", "decode", "function", "is_async", "is_reserved")

    def __init__(
        self,
        function: HandlerFunction,
        body_type: Any,
        *,
        is_reserved: bool = False,
        objects_max: int = MESSAGE_OBJECTS,
    ) -> None:
        self.function = function
        self.is_reserved = is_reserved
        """One of the library's own: its messages do not wait for those of the application, whose handlers may be
        waiting for them."""
        self.is_async = inspect.iscoroutinefunction(function)
        self._body_type = body_type
        self._objects_max = objects_max
        self.decode: Callable[[bytes], Any] = (
            _decode if body_type is Any else msgspec.msgpack.Decoder(body_type).decode
        )

    def body_of(self, body: bytes, is_packed: bool) -> Any:
        """The value for the function.

        Raises :class:`msgspec.DecodeError` when the body does not fit the type, or has too many objects.
        """
        if is_packed:
            if len(body) > self._objects_max:
                check_objects(body, self._objects_max)
            try:
                return self.decode(body)
            except _NOT_DECODED as error:
                raise msgspec.DecodeError(str(error)) from error
        if self._body_type is Any or self._body_type is bytes:
            return body
        raise msgspec.ValidationError(f"expected a value of {self._body_type}, got raw bytes")


class Handlers:
    """The handlers of one server or one client.

    :param message_objects: how many objects the body of a message may become.
    """

    __slots__ = ("_by_name", "_datagrams", "files", "message", "message_objects", "plain_message")

    def __init__(self, message_objects: int = MESSAGE_OBJECTS) -> None:
        self.message_objects = message_objects
        self._by_name: dict[str, Handler] = {}
        self._datagrams: dict[str, Handler] = {}
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
        _check_name(name)
        if name in self._by_name:
            raise ConfigurationError(f"there is a handler for {name!r} already")

        def register(function: Function) -> Function:
            self._by_name[name] = self._handler(function, body_type)
            return function

        return register

    def reserve(self, name: str, function: HandlerFunction, body_type: Any) -> None:
        """Registers one of the library's own functions for a name that begins with :data:`RESERVED_PREFIX`.

        They are only called for lines.
        """
        assert name.startswith(RESERVED_PREFIX)
        assert name not in self._by_name
        self._by_name[name] = self._handler(function, body_type, is_reserved=True)

    def on_message(self, function: Function) -> Function:
        """Registers a function for messages without a name. Raises :class:`ConfigurationError` for a second one."""
        if self.message is not None:
            raise ConfigurationError("there is a handler for messages already")
        self.message = self._handler(function, Any)
        self.plain_message = None if self.message.is_async else function
        return function

    def on_datagram(self, name: str, body_type: Any = Any) -> Callable[[Function], Function]:
        """Registers a plain function for datagrams called ``name``, or for those without one where it is empty.

        Raises :class:`ConfigurationError` for a name that is taken or too long, and for a coroutine function.
        """
        if name:
            _check_name(name)
        if name in self._datagrams:
            raise ConfigurationError(f"there is a handler for datagrams {name!r} already")

        def register(function: Function) -> Function:
            handler = self._handler(function, body_type)
            if handler.is_async:
                raise ConfigurationError(
                    f"{function!r} is a coroutine function; a datagram is not kept until it has run, so its handler "
                    "is a plain one"
                )
            self._datagrams[name] = handler
            return function

        return register

    def _handler(self, function: HandlerFunction, body_type: Any, *, is_reserved: bool = False) -> Handler:
        return Handler(function, body_type, is_reserved=is_reserved, objects_max=self.message_objects)

    def find_datagram(self, name: str) -> Handler | None:
        """The handler for datagrams of a name, or for those without one."""
        return self._datagrams.get(name)

    def find(self, name: str) -> Handler | None:
        """The handler for a name, or for messages without one."""
        return self._by_name.get(name) if name else self.message


class TakesDatagrams:
    """What a server and a client have in common: :meth:`on_datagram`."""

    handlers: Handlers

    @overload
    def on_datagram(self, name: Function, /) -> Function: ...

    @overload
    def on_datagram(self, name: str, body_type: Any = ..., /) -> Callable[[Function], Function]: ...

    def on_datagram(self, name: Any, body_type: Any = Any, /) -> Any:
        """Registers ``function(line, value)`` for datagrams: ``@on_datagram`` for those without a name, else
        ``@on_datagram("state")`` or ``@on_datagram("state", State)``.

        It is a plain function, called inside the event loop for each datagram in the order in which they come; what
        it raises is logged. Datagrams without a handler, and those that do not fit ``body_type``, are counted in
        :attr:`landline.Line.datagrams_ignored`.

        :raises ConfigurationError: for a name that is taken or longer than 255 bytes, and for a coroutine function.
        """
        if isinstance(name, str):
            return self.handlers.on_datagram(name, body_type)
        return self.handlers.on_datagram("")(name)


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise ConfigurationError(
            f"a handler is registered with its name, such as @server.on('add'), not with {type(name).__name__!r}"
        )
    if name.startswith(RESERVED_PREFIX):
        raise ConfigurationError(
            f"names that begin with {RESERVED_PREFIX!r} are reserved; choose another than {name[:40]!r}"
        )
    if not 0 < len(name.encode()) <= 255:
        raise ConfigurationError(
            f"a handler's name has 1 to 255 bytes, {name[:40]!r} has {len(name.encode())}"
        )


def encode_value(value: Any) -> tuple[bytes, bool]:
    """A value as bytes, and whether those are MessagePack: bytes-like values travel as they are.

    Raises :class:`TypeError` for values MessagePack has no form for.
    """
    if isinstance(value, bytes):
        return value, False
    if isinstance(value, bytearray | memoryview):
        return bytes(value), False
    return _encode(value), True


def decode_value(body: bytes, is_packed: bool, objects_max: int = MESSAGE_OBJECTS) -> Any:
    """The value of a body.

    Raises :class:`msgspec.DecodeError` when it says MessagePack and is not, or has too many objects.
    """
    if not is_packed:
        return body
    if len(body) > objects_max:
        check_objects(body, objects_max)
    try:
        return _decode(body)
    except _NOT_DECODED as error:
        raise msgspec.DecodeError(str(error)) from error


def is_cancelled(error: BaseException) -> bool:
    """Whether an error in the running task is the task's own cancellation, which must go on."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def describe_failure(error: BaseException, name: str, asker: object) -> tuple[str, str]:
    """The code and the text the peer is told of a handler's exception; anything unexpected stays in our own log."""
    if isinstance(error, RequestError):
        return error.code, error.message
    if isinstance(error, msgspec.DecodeError):
        return "bad_request", f"the body of {name!r} does not fit: {error}"
    logger.error("the handler for %r of %r failed", name, asker, exc_info=error)
    return "failed", f"the handler for {name!r} failed"
