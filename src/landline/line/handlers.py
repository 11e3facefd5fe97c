"""The registered handlers of a server or client, and the types of their bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeGuard, TypeVar

from landline.errors import ConfigurationError, RequestError
from landline.line.codec import (
    BodyDecoder,
    BodyError,
    DecHook,
    EncHook,
    Encode,
    check_hooks,
    decoder_of,
    encode_with,
)
from landline.line.decoded_size import MESSAGE_OBJECTS
from landline.runtime.guarded_log import guarded_logger
from landline.signatures import check_function, is_coroutine_function
from landline.texts import safe_text

logger: Final = guarded_logger("landline")

HandlerFunction = Callable[[Any, Any], Any]
"""Takes the sender, a :class:`landline.Line` or over ``udp://`` a :class:`landline.CallPeer`, and the value."""
Function = TypeVar("Function", bound=Callable[..., Any])
Body = TypeVar("Body")
Result = TypeVar("Result")


class HandlerDecorator(Protocol[Body]):
    """Registers a function whose second parameter takes a value of one type; returns the function."""

    def __call__(self, function: Callable[[Any, Body], Result], /) -> Callable[[Any, Body], Result]: ...


HANDLER_ARGUMENTS: Final = ("line", "value")
RESERVED_PREFIX: Final = "landline."
"""The prefix of the library's own names (``docs/protocol.md`` §5.8)."""

FAILURES: Final = (Exception, asyncio.CancelledError)
"""What a user's function can fail with. A cancellation may come from something that the function awaited or asked for
its result: only if :func:`is_cancelled` says so was the handler itself cancelled."""


class Handler:
    """A function for one name, and the type to which its bodies are converted.

    A plain function is called inside the event loop, which is fast; it must not block. A coroutine function runs as a
    task for each request, and for messages one after the other.
    """

    __slots__ = ("decode_body", "function", "is_async", "is_reserved")

    def __init__(
        self,
        function: HandlerFunction,
        body_type: Any,
        *,
        dec_hook: DecHook | None = None,
        is_reserved: bool = False,
        objects_max: int = MESSAGE_OBJECTS,
    ) -> None:
        self.function: HandlerFunction = function
        self.is_reserved: bool = is_reserved
        """Whether this is one of the library's own handlers: its messages do not wait for those of the application,
        whose handlers may be waiting for them."""
        self.is_async: bool = is_coroutine_function(function)
        self.decode_body: Callable[[bytes, bool], Any] = BodyDecoder(
            body_type, dec_hook, objects_max
        ).decode_body
        """The value for the function. Raises :class:`landline.line.codec.BodyError` when the body does not fit the
        type."""


class Handlers:
    """The handlers of one server or one client.

    :param message_objects: how many objects the body of a message may become.
    """

    __slots__ = (
        "_by_name",
        "_datagrams",
        "dec_hook",
        "encode",
        "message",
        "message_objects",
        "plain_message",
    )

    def __init__(
        self,
        message_objects: int = MESSAGE_OBJECTS,
        *,
        enc_hook: EncHook | None = None,
        dec_hook: DecHook | None = None,
    ) -> None:
        check_hooks(enc_hook, dec_hook)
        self.encode: Encode = encode_with(enc_hook)
        """Encodes every value that is sent."""
        self.dec_hook: DecHook | None = dec_hook
        self.message_objects: int = message_objects
        self._by_name: dict[str, Handler] = {}
        self._datagrams: dict[str, Handler] = {}
        self.message: Handler | None = None
        """The handler for messages without a name; without it they wait for the reader of the line."""
        self.plain_message: HandlerFunction | None = None
        """The function of :attr:`message`, if it is a plain one."""

    def on(self, name: str, body_type: Any = Any) -> Callable[[Function], Function]:
        """Register a function for requests and messages called ``name`` (1 to 255 bytes of UTF-8).

        Its result answers a request, and is discarded for a message. With ``body_type``, msgspec checks and converts
        the bodies; a request whose body does not fit is answered with an error.

        :raises ConfigurationError: for a name that is taken, too long, or reserved, for a type that msgspec does not
            know, and for a function that cannot be called with ``(line, value)``.
        """
        _check_name(name)
        if name in self._by_name:
            raise ConfigurationError(f"there is a handler for {name!r} already")

        # Here, so that an invalid type is reported where it is given, before the decorator is applied.
        decoder_of(body_type, self.dec_hook)

        def register(function: Function) -> Function:
            check_function(function, f"the handler for {name!r}", HANDLER_ARGUMENTS)
            self._by_name[name] = self._handler(function, body_type)
            return function

        return register

    def reserve(self, name: str, function: HandlerFunction, body_type: Any) -> None:
        """Register one of the library's own functions, for a name with :data:`RESERVED_PREFIX`.

        It is called only for lines, not for calls over ``udp://``.
        """
        assert name.startswith(RESERVED_PREFIX)
        assert name not in self._by_name
        self._by_name[name] = self._handler(function, body_type, is_reserved=True)

    def on_message(self, function: Function) -> Function:
        """Register the function for messages without a name. Raise :class:`ConfigurationError` for a second one."""
        if self.message is not None:
            raise ConfigurationError("there is a handler for messages already")
        check_function(function, "the handler for messages", HANDLER_ARGUMENTS)
        self.message = self._handler(function, Any)
        self.plain_message = None if self.message.is_async else function
        return function

    def on_datagram(self, name: str, body_type: Any = Any) -> Callable[[Function], Function]:
        """Register a plain function for datagrams called ``name``, or with an empty name for those without one.

        :raises ConfigurationError: for a name that is taken or too long, and for a coroutine function.
        """
        if name:
            _check_name(name)
        if name in self._datagrams:
            raise ConfigurationError(f"there is a handler for datagrams {name!r} already")

        decoder_of(body_type, self.dec_hook)

        def register(function: Function) -> Function:
            check_function(function, f"the handler for datagrams {name!r}", HANDLER_ARGUMENTS)
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
        return Handler(
            function,
            body_type,
            dec_hook=None if is_reserved else self.dec_hook,
            is_reserved=is_reserved,
            objects_max=self.message_objects,
        )

    def find_datagram(self, name: str) -> Handler | None:
        """Return the handler for datagrams of a name, or for those without one."""
        return self._datagrams.get(name)

    def find(self, name: str) -> Handler | None:
        """Return the handler for a name, or for messages without one."""
        return self._by_name.get(name) if name else self.message


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


def call_back(function: Callable[..., object], *arguments: object) -> None:
    """Call a callback of the user. Log what it raises: neither the line nor its host may fail with it."""
    try:
        function(*arguments)
    except FAILURES:
        logger.exception("the callback %r failed", function)


def is_cancelled(error: BaseException) -> bool:
    """Return whether an error is the cancellation of the running task itself, which must not be caught."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def is_refusal(error: BaseException) -> TypeGuard[RequestError]:
    """Return whether a handler raised this error for the peer; not the outcome of a request that it sent itself."""
    return isinstance(error, RequestError) and not error.is_outcome


def describe_failure(error: BaseException, name: str, asker: object) -> tuple[str, str]:
    """Return the code and text that the peer receives for a handler's exception. Log an unexpected one."""
    if is_refusal(error):
        return error.code, error.message
    if isinstance(error, BodyError):
        # It may quote a value of the body, which may be megabytes long.
        return "bad_request", f"the body of {name!r} does not fit: {safe_text(str(error))}"
    if isinstance(error, RequestError):
        # No traceback: the answering side chose this error, and it may be the peer itself.
        logger.warning(
            "the handler for %r of %r failed: a request of its own ended with: %s",
            name,
            asker,
            safe_text(str(error)),
        )
    else:
        logger.error("the handler for %r of %r failed", name, asker, exc_info=error)
    return "failed", f"the handler for {name!r} failed"
