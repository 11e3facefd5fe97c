"""``--help`` of every command, and errors of use."""

import inspect
import re

import click
import pytest

from landline.cli.command_line import SUBCOMMANDS, command_line

CONTEXT = click.Context(command_line)


def all_commands():
    for name in SUBCOMMANDS:
        command = command_line.get_command(CONTEXT, name)
        yield [name], command
        if isinstance(command, click.Group):
            yield from (([name, below], each) for below, each in command.commands.items())


COMMANDS = {" ".join(path): command for path, command in all_commands()}


async def test_the_help_names_every_command_with_its_whole_summary(cli):
    ended = await cli.run("--help")
    assert ended.status == 0
    text = " ".join(ended.out.split())
    for name, entry in SUBCOMMANDS.items():
        assert f" {name} {entry.summary}" in text
    assert "..." not in text.partition("Commands:")[2]


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_summary_is_the_first_sentence_of_the_help(name):
    command = COMMANDS[name]
    assert inspect.cleandoc(command.help).partition("\n\n")[0].replace("\n", " ") == SUBCOMMANDS[name].summary
    assert command.name == name


@pytest.mark.parametrize("name", COMMANDS)
async def test_the_help_of_a_command_is_complete_and_names_no_type_of_python(cli, name):
    ended = await cli.run(*name.split(), "--help")
    assert (ended.status, ended.err) == (0, "")
    assert "[[" not in ended.out
    assert not {"str", "None", "FLOAT", "UNSET"} & set(re.findall(r"\w+", ended.out))
    for parameter in COMMANDS[name].params:
        if not getattr(parameter, "hidden", False):
            assert parameter.help, parameter.name


async def test_an_unknown_command_is_named_with_a_similar_one(cli):
    ended = await cli.run("restrat")
    assert (ended.status, ended.out) == (2, "")
    assert "No such command 'restrat'" in ended.err
    assert "restart" in ended.err


async def test_no_command_shows_the_help(cli):
    ended = await cli.run()
    assert ended.status == 2
    assert "Usage: landline [OPTIONS] COMMAND" in ended.err + ended.out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--forse"], "No such option"),
        (["ping"], "Missing argument 'URL'"),
        (["ping", "tcp://host", "--count"], "Option '--count' requires an argument"),
        (["agent"], "Missing option '--server'"),
        (["ls", "lab-1"], "Got unexpected extra argument"),
    ],
)
async def test_wrong_use_has_status_2(cli, arguments, problem):
    ended = await cli.run(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert problem in ended.err
