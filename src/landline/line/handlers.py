"""Which function answers which message, and how bodies become values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeGuard, TypeVar

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

HANDLER_ARGUMENTS: Final = ("line", "value")
RESERVED_PREFIX: Final = "landline."
"""Names that begin so are the library's own (``docs/protocol.md`` §5.8)."""

FAILURES: Final = (Exception, asyncio.CancelledError)
"""What a function of the user's can fail with. The cancellation is somebody else's, whose result it asked for: nobody
has cancelled a plain function, and a coroutine only if :func:`is_cancelled` says so."""


class Handler:
    """A function for one name, and the type its bodies are converted to.

    A plain function is called at once inside the event loop, which is the fast path: it must not block. A
    coroutine function runs as a task where it answers requests, and one after the other where it takes messages.
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
        """One of the library's own: its messages do not wait for those of the application, whose handlers may be
        waiting for them."""
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
        """Takes messages without a name; without it they wait for ``async for``."""
        self.plain_message: HandlerFunction | None = None
        """The function of :attr:`message` where it is a plain one."""

    def on(self, name: str, body_type: Any = Any) -> Callable[[Function], Function]:
        """Registers a function for requests and messages called ``name`` (1 to 255 bytes of UTF-8).

        What it returns answers a request; what a message's handler returns is dropped. With ``body_type``, bodies
        are checked and converted by msgspec, and a request whose body does not fit is answered with an error.
        Raises :class:`ConfigurationError` for a name that is taken, too long, or reserved, for a type msgspec does not
        know, and for a function that cannot be called with ``(line, value)``.
        """
        _check_name(name)
        if name in self._by_name:
            raise ConfigurationError(f"there is a handler for {name!r} already")

        # Here, so that a type which cannot be checked is named even where the decorator's function is not.
        decoder_of(body_type, self.dec_hook)

        def register(function: Function) -> Function:
            check_function(function, f"the handler for {name!r}", HANDLER_ARGUMENTS)
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
        check_function(function, "the handler for messages", HANDLER_ARGUMENTS)
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
        """The handler for datagrams of a name, or for those without one."""
        return self._datagrams.get(name)

    def find(self, name: str) -> Handler | None:
        """The handler for a name, or for messages without one."""
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
    """Whether an error in the running task is the task's own cancellation, which must go on."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def is_refusal(error: BaseException) -> TypeGuard[RequestError]:
    """Whether a handler raised an error for the peer to see, and not what a request of its own ended with."""
    return isinstance(error, RequestError) and not error.is_outcome


def describe_failure(error: BaseException, name: str, asker: object) -> tuple[str, str]:
    """The code and the text the peer is told of a handler's exception; anything unexpected stays in our own log."""
    if is_refusal(error):
        return error.code, error.message
    if isinstance(error, BodyError):
        # It may quote a value of the body, which may have megabytes.
        return "bad_request", f"the body of {name!r} does not fit: {safe_text(str(error))}"
    if isinstance(error, RequestError):
        # No traceback: whoever was asked chose how it ended, and it may be the peer itself.
        logger.warning(
            "the handler for %r of %r failed: a request of its own ended with: %s",
            name,
            asker,
            safe_text(str(error)),
        )
    else:
        logger.error("the handler for %r of %r failed", name, asker, exc_info=error)
    return "failed", f"the handler for {name!r} failed"
