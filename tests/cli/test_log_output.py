"""The logs of ``serve`` and ``agent``: options, the journal, secrets, and readers that stop reading."""

import io
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults import processes as processes_module

from landline.cli.exit_codes import ALL_DONE, WRONG_USE
from landline.cli.log_output import BackgroundHandler
from landline.fleet.model import Action, ExecutionState, PresenceState


@pytest.fixture
def processes() -> Iterator:
    directory = Path(tempfile.mkdtemp(prefix="ll-"))
    with processes_module.run_processes(directory) as running:
        yield running
    shutil.rmtree(directory)


def serve(processes, *options: str):
    return processes_module.ControlServer(processes, *options)


def test_the_json_log_has_every_event_and_no_secret(processes):
    control = serve(processes, "--log-format", "json", "--log-level", "debug", "--http", "127.0.0.1:0")
    machine = processes_module.CommandMachine(processes, control, "lab-1")
    job = control.order(Action.LOG_OFF, "lab-1", message="x\ny", requested_by="bo\x1b[31m@desk\n<0>forged")
    control.reaches(job, ExecutionState.DONE)
    [url] = re.findall(r"http://127\.0\.0\.1:\d+", control.program.out)
    operators_token = (control.data / "operators.token").read_text().strip()
    processes.environment["LANDLINE_TOKEN"] = "not the operators token"
    assert processes.run("ls", "--server", url).process.returncode == WRONG_USE
    processes.environment["LANDLINE_TOKEN"] = operators_token
    assert processes.run("ls", "--server", url).process.returncode == ALL_DONE
    assert machine.agent.ends(signal.SIGTERM) == ALL_DONE
    control.shows("lab-1", PresenceState.OFFLINE)
    assert control.program.ends(signal.SIGTERM) == ALL_DONE
    lines = [json.loads(line) for line in control.program.err.splitlines()]
    events = [line["event"] for line in lines if line["logger"] == "landline.control.events"]
    assert events[0] == "control_started"
    assert events[-2:] == ["control_stopping", "control_stopped"]
    assert {
        "machine_joined",
        "job_accepted",
        "execution_progress",
        "execution_ended",
        "machine_offline",
    } <= set(events)
    [accepted] = [line for line in lines if line["event"] == "job_accepted"]
    assert accepted["by"] == "bo\x1b[31m@desk\n<0>forged"
    for secret in (operators_token, Path(control.token_file).read_text().strip(), "not the operators token"):
        for program in processes.started:
            assert secret not in program.out + program.err


@pytest.mark.parametrize("command", ["serve", "agent"])
def test_systemds_journal_gets_priorities_and_no_time(processes, command):
    """As systemd does it: JOURNAL_STREAM names standard error; here it is a file."""
    control = serve(processes)
    arguments = {
        "serve": ("serve", "--data", "{0}/data", "--listen", "tcp://127.0.0.1:0", "--socket", "{0}/socket"),
        "agent": ("agent", "--server", control.url, "--token-file", control.token_file, "--data", "{0}/data"),
    }[command]
    place = processes.directory / "place"
    place.mkdir()
    err = place / "err"
    # The descriptor is known to the child only: a shell that says so, and becomes the command.
    script = 'JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2) exec "$0" -m landline "$@"'
    rest = ("--power", "dry-run", "--prompt", "none") if command == "agent" else ()
    with err.open("w") as stream:
        program = subprocess.Popen(
            ["sh", "-c", script, sys.executable, *(each.format(place) for each in arguments), *rest],
            stderr=stream,
            stdout=subprocess.DEVNULL,
            env=processes.environment,
        )
    expected = "<6>control_started" if command == "serve" else "<6>landline.agent: joined as"
    processes_module.until(lambda: expected in err.read_text(), err.read_text)
    program.send_signal(signal.SIGTERM)
    assert program.wait(processes_module.PATIENCE_S) == ALL_DONE
    assert all(re.match(r"<[3-7]>[\w.]", line) for line in err.read_text().splitlines())


def test_the_log_level_is_the_lowest_that_is_logged(processes):
    control = serve(processes, "--log-level", "warning")
    assert control.program.ends(signal.SIGTERM) == ALL_DONE
    assert control.program.err == ""


@pytest.mark.parametrize("command", ["serve", "agent"])
@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("--log-format", "xml"), "--log-format takes auto, text, json or journal, not 'xml'.\n"),
        (("--log-level", "LOUD"), "--log-level takes debug, info, warning or error, not 'LOUD'.\n"),
    ],
)
async def test_other_log_formats_and_levels_are_wrong_use(cli, command, option, sentence):
    server = ("--server", "tcp://127.0.0.1:1") if command == "agent" else ()
    ended = await cli.run(command, *server, *option)
    assert (ended.status, ended.err) == (WRONG_USE, sentence)


# The thread that writes.


class Blocked(io.StringIO):
    """A stream whose writes block until it is opened, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = threading.Event()
        self.is_reached = threading.Event()
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        self.is_reached.set()
        self.is_open.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return super().write(text)


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "", 0, text, (), None)


def test_a_blocked_stream_does_not_block_the_logger():
    stream = Blocked()
    handler = BackgroundHandler(stream, pending_characters_max=100, flush_timeout_s=0.01)
    handler.emit(record("first"))
    assert stream.is_reached.wait(20)
    for number in range(1000):
        handler.emit(record(f"line {number:04}"))
    handler.flush()  # Which gives up.
    assert stream.getvalue() == ""
    stream.is_open.set()
    while "could not be written" not in stream.getvalue():
        handler.flush()
    written = stream.getvalue().splitlines()
    assert written[:3] == ["first", "line 0000", "line 0001"]
    assert written[-1] == f"{1000 - (len(written) - 2)} lines of this log could not be written"
    handler.emit(record("last"))
    while not stream.getvalue().endswith("written\nlast\n"):
        handler.flush()


def test_the_log_writer_continues_after_a_failed_write():
    stream = Blocked()
    stream.failure = OSError(28, "No space left on device")
    stream.is_open.set()
    handler = BackgroundHandler(stream)
    handler.emit(record("lost"))
    handler.flush()
    handler.emit(record("kept"))
    handler.flush()
    assert stream.getvalue() == "kept\n1 lines of this log could not be written\n"


def test_pending_lines_are_written_at_the_end():
    program = (
        "import logging, sys; from landline.cli.log_output import show_logs; show_logs('text', 'info');"
        "[logging.getLogger('landline').info('line %d', n) for n in range(1000)]"
    )
    ended = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stderr.count("\n") == 1000
    assert ended.stderr.endswith("line 999\n")


def test_quiet_logs_are_printable():
    program = (
        "import logging; from landline.cli.log_output import quiet_logs; quiet_logs();"
        r"logging.getLogger('landline').error('%s', 'a\n\x1b[2Jb')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stderr == "ERROR a \N{REPLACEMENT CHARACTER}[2Jb\n"
