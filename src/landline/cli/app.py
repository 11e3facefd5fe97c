"""The commands put together."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from landline.cli.discovering import register as register_discovering
from landline.cli.files import register as register_files
from landline.cli.jobs import register as register_jobs
from landline.cli.machines import register as register_machines
from landline.cli.pinging import register as register_pinging
from landline.cli.serving import register as register_serving


def build() -> typer.Typer:
    """The whole command line; imports neither servers nor rich."""
    app = typer.Typer(
        name="landline",
        cls=_Group,
        help="Keeps a line open to every machine you look after, and lets you act on them.",
        epilog="Exit status: 0 all done, 1 some not, 2 wrong use, 3 no control server, 130 Ctrl-C before the end.",
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_landline)
    register_machines(app)
    register_jobs(app)
    register_serving(app)
    register_discovering(app)
    register_pinging(app)
    register_files(app)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        import landline

        sys.stdout.write(f"landline {landline.__version__}\n")
        raise typer.Exit


def _landline(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    del version


class _Group(TyperGroup):
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
