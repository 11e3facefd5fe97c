"""Checks of the functions that users register: what is wrong with one is said where it is registered."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

from landline.errors import ConfigurationError

Expected: TypeAlias = Mapping[str, tuple[type | tuple[type, ...], str]]
"""By argument: what it must be, and how that is said."""


def is_coroutine_function(function: object) -> bool:
    """Return whether calling ``function`` gives a coroutine, as far as that can be seen without calling it."""
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
    """Raise :class:`ConfigurationError` for what cannot be called with these arguments, or gives the wrong thing.

    :param what: what it is registered as, the beginning of the sentence, such as ``"the handler for 'add'"``.
    :param arguments: what it is called with, positionally.
    :param may_be_async: whether a coroutine function will do.
    :param must_be_async: whether nothing else will.
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
    # To Python True is a number; to whoever wrote it, it is a mistake.
    is_mistaken_bool = isinstance(value, bool) and kind is not bool
    if value is not None and (is_mistaken_bool or not isinstance(value, kind)):
        raise ConfigurationError(f"{what} takes {example}, not a value of the type {type(value).__name__}")


def check_arguments(function: str, given: Mapping[str, object], expected: Expected) -> None:
    """Check every argument of a call that ``expected`` has; see :func:`check_type`."""
    for argument, (kind, example) in expected.items():
        check_type(f"{function}({argument}=)", given[argument], kind, example)


def takes(function: Any, *arguments: str, **keywords: str) -> bool:
    """Return whether ``function`` can be called so; ``True`` where Python does not know."""
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
    """Return the name of a function as its author knows it."""
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return name.rpartition("<locals>.")[2] if isinstance(name, str) else type(function).__name__


def discard_awaitable(result: Any) -> None:
    """Close a coroutine, or cancel a future, whose result nobody will wait for."""
    end = getattr(result, "close", None) if inspect.iscoroutine(result) else getattr(result, "cancel", None)
    if end is not None and inspect.isawaitable(result):
        end()


def describe_result(result: Any) -> str:
    """Return what a function returned, for a sentence: its type, and its value only where that tells no secret."""
    if inspect.iscoroutine(result):
        return "a coroutine, which nobody awaits"
    if result is None or isinstance(result, bool) or result == "":
        return repr(result)
    return f"a value of the type {type(result).__name__}"


def _is_generator_function(function: object) -> bool:
    return any(
        inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one)
        for one in (function, getattr(function, "__call__", None))  # noqa: B004 - as above
    )
