"""Checks of functions and arguments that users pass: a mistake raises where it is made, not when it is used."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

from landline.errors import ConfigurationError

Expected: TypeAlias = Mapping[str, tuple[type | tuple[type, ...], str]]
"""By argument: its type, and the words for it in an error."""


def is_coroutine_function(function: object) -> bool:
    """Return whether calling ``function`` returns a coroutine, as far as can be seen without a call."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object whose __call__ is a coroutine function
    )


def check_function(
    function: object,
    what: str,
    arguments: tuple[str, ...],
    *,
    may_be_async: bool = True,
    must_be_async: bool = False,
) -> None:
    """Raise :class:`ConfigurationError` unless ``function`` accepts these arguments and is of the right kind.

    :param what: the subject of the error, such as ``"the handler for 'add'"``.
    :param arguments: the positional arguments of the call.
    :param may_be_async: whether a coroutine function is allowed.
    :param must_be_async: whether a coroutine function is required.
    """
    name = function_name(function)
    if not callable(function):
        raise ConfigurationError(f"{what} is a {type(function).__name__}, not a function")
    called = f"({', '.join(arguments)})"
    if _is_generator_function(function):
        raise ConfigurationError(
            f"{what}, {name}, is a generator; it is called as {name}{called} and must not use 'yield': "
            "send further values with line.send()"
        )
    is_async = is_coroutine_function(function)
    if is_async and not may_be_async:
        raise ConfigurationError(
            f"{what}, {name}, is a coroutine function; make it a plain one: 'def {name}{called}'"
        )
    if must_be_async and not is_async:
        raise ConfigurationError(
            f"{what}, {name}, is a plain function; make it a coroutine: 'async def {name}{called}'"
        )
    if not takes(function, *arguments):
        raise ConfigurationError(f"{what}, {name}, cannot be called with {called}; give it these parameters")


def check_type(what: str, value: object, kind: type | tuple[type, ...], example: str) -> None:
    """Raise :class:`ConfigurationError` for an argument of another type; ``None`` stands for the default.

    :param what: the call and the argument, such as ``"Server(heartbeat=)"``.
    :param example: what to give in its place.
    """
    # For Python, True is a number; as an argument it is a mistake.
    is_mistaken_bool = isinstance(value, bool) and kind is not bool
    if value is not None and (is_mistaken_bool or not isinstance(value, kind)):
        raise ConfigurationError(f"{what} takes {example}, not a value of the type {type(value).__name__}")


def check_arguments(function: str, given: Mapping[str, object], expected: Expected) -> None:
    """Check every argument of a call that ``expected`` has; see :func:`check_type`."""
    for argument, (kind, example) in expected.items():
        check_type(f"{function}({argument}=)", given[argument], kind, example)


def takes(function: Any, *arguments: str, **keywords: str) -> bool:
    """Return whether ``function`` accepts these arguments; ``True`` if its signature is unknown."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*arguments, **keywords)
    except TypeError:
        return False
    return True


def function_name(function: object) -> str:
    """Return the name of a function as it appears in the source."""
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return name.rpartition("<locals>.")[2] if isinstance(name, str) else type(function).__name__


def discard_awaitable(result: Any) -> None:
    """Close a coroutine, or cancel a future, whose result is not awaited."""
    end = getattr(result, "close", None) if inspect.iscoroutine(result) else getattr(result, "cancel", None)
    if end is not None and inspect.isawaitable(result):
        end()


def describe_result(result: Any) -> str:
    """Describe the result of a function for an error: its type, and its value only if it cannot be a secret."""
    if inspect.iscoroutine(result):
        return "a coroutine, which is never awaited"
    if result is None or isinstance(result, bool) or result == "":
        return repr(result)
    return f"a value of the type {type(result).__name__}"


def _is_generator_function(function: object) -> bool:
    return any(
        inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one)
        for one in (function, getattr(function, "__call__", None))  # noqa: B004 - as above
    )
