"""Groups of commands that start fast."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperGroup


class Group(TyperGroup):
    """A group whose commands start fast."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)
        _take_as_it_is(parameters)
        return parameters

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            parameters = command.get_params(ctx)
            _take_as_it_is(parameters)
            _without_types(parameters)
        return command


def _take_as_it_is(parameters: Iterable[Any]) -> None:
    """Spares text and flags typer's coercion.

    It imports pydantic, which takes longer than everything else together. A typer that keeps its coercion
    elsewhere is only slower.
    """
    for parameter in parameters:
        annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
        is_plain = annotation in {str, list[str]} or (annotation is bool and not parameter.envvar)
        if is_plain and hasattr(parameter, "_runtime_param"):
            parameter._runtime_param = _AsItIs()


def _without_types(parameters: Iterable[Any]) -> None:
    """Keeps ``<list[str]>`` out of the help of arguments: whoever reads it need not know Python's types."""
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None


class _AsItIs:
    """Stands in for typer's runtime parameter where the value is of its type already."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        del ctx
        return list(value or ()) if param.multiple or param.nargs == -1 else value
