"""Encodes values and decodes bodies: MessagePack by msgspec, with hooks for types that msgspec does not know."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import inspect as types

from landline.errors import ConfigurationError
from landline.line.decoded_size import MESSAGE_OBJECTS, check_objects
from landline.signatures import check_function
from landline.texts import safe_text

EncHook = Callable[[Any], Any]
"""Takes a value that msgspec does not know; returns one that it knows, or raises :class:`NotImplementedError`."""
DecHook = Callable[[type, Any], Any]
"""Takes a type that msgspec does not know and the decoded value; returns a value of that type, or raises
:class:`ValueError` or :class:`TypeError` for what does not fit, :class:`NotImplementedError` for any other type."""
Encode = Callable[[Any], tuple[bytes, bool]]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
# msgspec's own error, and those that it lets through: text that is not UTF-8, and values nested too deeply.
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_DECODED_AS: Final = (bool, int, float, str, bytes, list, dict, type(None), msgspec.msgpack.Ext)
"""The types that values have when they are decoded without a type."""
_TYPES_KEPT_MAX: Final = 256
"""The number of types for which this process caches decoders."""


class BodyError(msgspec.DecodeError):
    """A body does not fit the type of its handler; the message says where.

    A handler that decodes something itself raises msgspec's own errors, which are not the peer's mistake.
    """


class BodyDecoder:
    """Decodes bodies and converts them to a type.

    :param objects_max: the maximum number of objects in a decoded body.
    :raises ConfigurationError: for a type that msgspec does not know, if there is no ``dec_hook``, and for something
        that is not a type.
    """

    __slots__ = ("_body_type", "_objects_max", "decode")

    def __init__(
        self, body_type: Any, dec_hook: DecHook | None = None, objects_max: int = MESSAGE_OBJECTS
    ) -> None:
        self._body_type = body_type
        self._objects_max = objects_max
        self.decode: Callable[[bytes], Any] = _decode
        if body_type is not Any:
            try:
                info = types.type_info(body_type)
                self.decode = msgspec.msgpack.Decoder(body_type, dec_hook=dec_hook).decode
            except (TypeError, ValueError, NameError, AttributeError) as error:
                raise ConfigurationError(
                    f"msgspec cannot check bodies against {_name(body_type)}: {error}"
                ) from error
            if dec_hook is None:
                _check_known(body_type, info)

    def decode_body(self, body: bytes, is_packed: bool) -> Any:
        """Return the value of a body.

        Raise :class:`BodyError` when it does not fit the type, or has too many objects.
        """
        if is_packed:
            return _decoded(self.decode, body, self._objects_max)
        if self._body_type is Any or self._body_type is bytes:
            return body
        raise BodyError(f"expected a value of {self._body_type}, got raw bytes")


def decoder_of(body_type: Any, dec_hook: DecHook | None, objects_max: int = MESSAGE_OBJECTS) -> BodyDecoder:
    """Return the decoder of a type, from a cache of recently used ones; see :class:`BodyDecoder`."""
    try:
        return _decoder_of(body_type, dec_hook, objects_max)
    except TypeError:
        # A type that cannot be hashed, such as an Annotated one that contains a list.
        return BodyDecoder(body_type, dec_hook, objects_max)


_decoder_of = lru_cache(maxsize=_TYPES_KEPT_MAX, typed=True)(BodyDecoder)


def encode_value(value: Any) -> tuple[bytes, bool]:
    """Return a value as bytes, and whether they are MessagePack: bytes-like values are sent unchanged.

    :raises TypeError: for a value that MessagePack cannot hold.
    """
    if isinstance(value, bytes):
        return value, False
    if isinstance(value, bytearray | memoryview):
        return bytes(value), False
    return _encode(value), True


def encode_with(enc_hook: EncHook | None) -> Encode:
    """Return :func:`encode_value`, with a hook for values that msgspec does not know."""
    if enc_hook is None:
        return encode_value
    encode = msgspec.msgpack.Encoder(enc_hook=enc_hook).encode

    def encode_hooked(value: Any) -> tuple[bytes, bool]:
        if isinstance(value, bytes | bytearray | memoryview):
            return encode_value(value)
        return encode(value), True

    return encode_hooked


def decode_value(body: bytes, is_packed: bool, objects_max: int = MESSAGE_OBJECTS) -> Any:
    """Return the value of a body.

    :raises BodyError: when it should be MessagePack and is not, or has too many objects.
    """
    return _decoded(_decode, body, objects_max) if is_packed else body


def _decoded(decode: Callable[[bytes], Any], body: bytes, objects_max: int) -> Any:
    try:
        if len(body) > objects_max:
            check_objects(body, objects_max)
        return decode(body)
    except _NOT_DECODED as error:
        # One short line: it may quote what the peer wrote, which may be megabytes long.
        raise BodyError(" ".join(safe_text(str(error)).split())) from error


def check_hooks(enc_hook: EncHook | None, dec_hook: DecHook | None) -> None:
    """Raise :class:`ConfigurationError` for hooks that cannot be called."""
    if enc_hook is not None:
        check_function(enc_hook, "enc_hook=", ("value",), may_be_async=False)
    if dec_hook is not None:
        check_function(dec_hook, "dec_hook=", ("type", "value"), may_be_async=False)


def _check_known(body_type: Any, info: types.Type) -> None:
    """Raise :class:`ConfigurationError` for a type with a part to which no received value can be converted."""
    left: list[Any] = [info]
    seen: set[int] = set()
    while left:
        part = left.pop()
        if isinstance(part, tuple):
            left.extend(part)
        elif isinstance(part, types.CustomType) and not any(issubclass(one, part.cls) for one in _DECODED_AS):
            whole = "" if part.cls is body_type else f", a part of {_name(body_type)},"
            raise ConfigurationError(
                f"{_name(part.cls)}{whole} is not a type that msgspec knows: use a msgspec.Struct, a dataclass, an "
                "attrs class, a TypedDict or a NamedTuple, or give enc_hook= and dec_hook="
            )
        elif isinstance(part, types.Type | types.Field) and id(part) not in seen:
            seen.add(id(part))
            left.extend(getattr(part, name) for name in part.__struct_fields__)


def _name(body_type: Any) -> str:
    return getattr(body_type, "__qualname__", None) or repr(body_type)
