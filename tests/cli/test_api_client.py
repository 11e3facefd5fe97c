"""The client: addresses, events, and servers that fail in every way."""

import asyncio
import contextlib
import re
import socket
import threading

import pytest

from landline.cli.api_client import ApiClient, NoServer, ServerAddress, parse_server
from landline.cli.exit_codes import WrongUse
from landline.cli.retry import AnswerLost, Refused, Retries, ServerUnreachable
from landline.cli.sse_parser import EVENT_BYTES_MAX, EventTooLarge, event_data
from landline.cli.update_stream import Disconnected, live_updates
from landline.fleet.api import CancelRequest, JobRequest, Snapshot
from landline.fleet.model import Action
from landline.fleet.web.http_server import ApiServer


def test_parse_server():
    assert parse_server("unix:///run/x.sock") == ServerAddress(unix_path="/run/x.sock")
    assert parse_server("http://lab.example:5464/") == ServerAddress(host="lab.example", port=5464)
    assert str(parse_server("http://[::1]:5464")) == "http://[::1]:5464"


@pytest.mark.parametrize(
    "url",
    ["", "lab", "unix://x", "unix:///", "http://lab", "http://:80", "https://a:1", "http://a:x", "http://a:1/p",
     "http://u@a:1", "http://[::1:80", "http://a:1?q", "http://a:99999"],
)  # fmt: skip
def test_parse_server_refuses_other_urls(url):
    with pytest.raises(WrongUse, match="--server takes unix:///path or http://host:port, not "):
        parse_server(url)


def test_events():
    lines = [
        b": hi\n",
        b"\n",
        b"data: 1\n",
        b"\n",
        b"event: x\n",
        b"data:2\r\n",
        b"data:  3\r\n",
        b"\r\n",
        b"data: cut\n",
    ]
    assert list(event_data(lines)) == [b"1", b"2\n 3"]


def test_an_event_that_is_too_large_is_refused():
    lines = (b"data: " + b"x" * 1_000_000 + b"\n" for _ in range(EVENT_BYTES_MAX // 1_000_000 + 2))
    with pytest.raises(EventTooLarge):
        list(event_data(lines))


@contextlib.contextmanager
def answering(path, *answers: bytes):
    """A server on a unix socket that gives each connection a fixed answer, and closes it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        asked = []

        def serve():
            for answer in answers:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as stream:
                    request = b"".join(iter(stream.readline, b"\r\n"))
                    length = re.search(rb"Content-Length: (\d+)", request)
                    asked.append(request + stream.read(int(length[1]) if length else 0))
                    connection.sendall(answer)

        # A daemon: after a failed test it may wait for a request that is never sent, and the process must end.
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        thread.join()


def http_answer(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_no_server_answers(directory):
    api = ApiClient(ServerAddress(unix_path=str(directory / "none.sock")))
    with pytest.raises(NoServer) as caught:
        api.status()
    assert caught.value.status == 3
    assert str(caught.value) == (
        f"No control server answers at unix://{directory}/none.sock; start one with 'landline demo' or "
        "'landline serve', or name its address with --server."
    )


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "went away"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "went away"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer as the API of a landline control server"),
        (http_answer("200 OK", "<html>"), "does not answer as the API of a landline control server"),
        (http_answer("200 OK", '{"version": 1}'), "does not answer as the API of a landline control server"),
        (http_answer("404 Not Found", "<html>"), "does not answer as the API of a landline control server"),
        (http_answer("503 Service Unavailable", "Service Unavailable"), "has too many connections"),
    ],
)
def test_an_answer_of_another_program_is_an_error(directory, answer, sentence):
    path = directory / "odd.sock"
    with answering(path, answer), pytest.raises(ServerUnreachable, match=sentence) as caught:
        ApiClient(ServerAddress(unix_path=str(path)), retries=Retries(read_s=0.0)).status()
    assert caught.value.status == 3


def test_a_server_error_exits_with_3(directory):
    path = directory / "odd.sock"
    body = '{"code":"internal","message":"Look at \\u001b[31m the log."}'
    with answering(path, http_answer("500 No", body)), pytest.raises(Refused) as caught:
        ApiClient(ServerAddress(unix_path=str(path))).status()
    assert caught.value.status == 3
    assert "\x1b" not in str(caught.value)


VIEW = '{"job":{"id":"1","action":"restart","targets":[],"created_at":1},"executions":[],"events":[]}'
ORDER = JobRequest(action=Action.RESTART, request_id="r-1")


class Time:
    """A clock that only pauses advance, and the sentences that were printed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.on_pause = lambda: None

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.on_pause()

    def retries(self, **changes) -> Retries:
        return Retries(self.said.append, sleep=self.pause, clock=lambda: self.now, **changes)


@pytest.mark.parametrize(
    "lost",
    [
        b"",
        b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 201 Created\r\nContent-",
        http_answer("502 Bad Gateway", "<html>"),
        http_answer("503 Service Unavailable", "Service Unavailable"),
        http_answer("500 No", '{"code":"internal","message":"It failed."}'),
    ],
    ids=["broken", "cut in the body", "cut in the header", "a proxy's", "overload", "failed"],
)
def test_a_job_whose_answer_was_lost_is_sent_again_with_the_same_request_id(directory, lost):
    path, time = directory / "odd.sock", Time()
    with answering(path, lost, lost, http_answer("201 Created", VIEW)) as asked:
        api = ApiClient(ServerAddress(unix_path=str(path)), retries=time.retries())
        assert api.create_job(ORDER).job.id == "1"
    assert len(asked) == 3
    assert all(b'"request_id":"r-1"' in one for one in asked)
    [said] = time.said  # Once for one reason.
    assert said.endswith("; repeating the request for the job (request r-1), for up to 60 s in all.")
    assert "try again" not in said


def test_a_job_whose_answers_are_all_lost_may_have_been_accepted(directory):
    path, time = directory / "odd.sock", Time()
    api = ApiClient(ServerAddress(unix_path=str(path)), retries=time.retries())
    with answering(path, b""), pytest.raises(AnswerLost) as caught:
        # After that no server listens.
        time.on_pause = lambda: path.unlink(missing_ok=True)
        api.create_job(ORDER)
    assert caught.value.status == 1
    assert 57 < time.now < 60
    assert str(caught.value) == (
        f"No control server answers at unix://{path}; no answer came within 60 s. The job may have been accepted "
        "and may run; 'landline jobs --request r-1' shows whether it was. Check before you send another."
    )
    assert ["went away" in time.said[0], "No control server answers" in time.said[1]] == [True, True]
    assert len(time.said) == 2


def test_a_job_that_reached_no_server_was_not_accepted(directory):
    time = Time()
    with pytest.raises(NoServer):
        ApiClient(ServerAddress(unix_path=str(directory / "none")), retries=time.retries()).create_job(ORDER)
    assert (time.now, time.said) == (0.0, [])


REFUSALS = {
    "unknown_target": True,
    "bad_request": True,
    "storage_failed": False,
    "unauthorized": False,
    "internal": False,
}


@pytest.mark.parametrize("code", [code for code in REFUSALS if code != "internal"])
def test_a_refusal_of_the_first_request_is_final(directory, code):
    path = directory / "odd.sock"
    refusal = http_answer("400 No", f'{{"code":"{code}","message":"No."}}')
    with answering(path, refusal), pytest.raises(Refused):
        ApiClient(ServerAddress(unix_path=str(path)), retries=Time().retries()).create_job(ORDER)


@pytest.mark.parametrize(("code", "is_final"), REFUSALS.items())
def test_a_refusal_after_a_lost_answer_is_final_only_if_the_server_looked_up_the_request(
    directory, code, is_final
):
    path, time = directory / "odd.sock", Time()
    refusal = http_answer("400 No", f'{{"code":"{code}","message":"No."}}')
    api = ApiClient(ServerAddress(unix_path=str(path)), retries=time.retries(change_s=0.25))
    with answering(path, b"", refusal), pytest.raises(Refused if is_final else AnswerLost):
        api.create_job(ORDER)


def test_a_cancellation_is_repeated_after_a_lost_answer(directory):
    path, time = directory / "odd.sock", Time()
    api = ApiClient(ServerAddress(unix_path=str(path)), retries=time.retries(change_s=0.25))
    with answering(path, b"", http_answer("200 OK", VIEW)) as asked:
        assert api.cancel_job("1", CancelRequest(cancelled_by="ada")).job.id == "1"
    assert asked[0] == asked[1]
    path.unlink()
    with (
        answering(path, b"", b""),
        pytest.raises(AnswerLost, match="may have been cancelled; 'landline jobs 1'"),
    ):
        api.cancel_job("1", CancelRequest())


MACHINE = '{"id":"m-1","facts":{"name":"lab-1"},"presence":{"state":"online","since_at":1},"first_seen_at":1}'


def test_a_repeated_resolve_succeeds_after_a_lost_answer(directory):
    path, time = directory / "odd.sock", Time()
    api = ApiClient(ServerAddress(unix_path=str(path)), retries=time.retries())
    refusal = http_answer("409 No", '{"code":"not_cloned","message":"It is not cloned."}')
    with answering(path, b"", refusal, http_answer("200 OK", f"[{MACHINE}]")):
        assert api.resolve_machine("lab-1").id == "m-1"
    path.unlink()
    with answering(path, refusal), pytest.raises(Refused, match="not cloned"):
        api.resolve_machine("lab-1")
    path.unlink()
    api = ApiClient(ServerAddress(unix_path=str(path)), retries=time.retries(change_s=0.0))
    with (
        answering(path, b""),
        pytest.raises(AnswerLost, match="may have been removed; 'landline ls' shows"),
    ):
        api.resolve_machine("lab-1")


def test_a_read_is_repeated_after_a_broken_connection(directory):
    path, time = directory / "odd.sock", Time()
    api = ApiClient(ServerAddress(unix_path=str(path)), retries=time.retries())
    with answering(
        path, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", http_answer("200 OK", "[]")
    ) as asked:
        assert api.machines() == ()
    assert (len(asked), time.said) == (3, [])


def test_a_read_is_repeated_for_a_limited_time(directory):
    path, time = directory / "odd.sock", Time()
    with answering(path, b""), pytest.raises(NoServer):
        time.on_pause = lambda: path.unlink(missing_ok=True)
        ApiClient(ServerAddress(unix_path=str(path)), retries=time.retries()).machines()
    assert 13 < time.now < 15


def test_a_read_is_not_repeated_after_a_time_out(directory):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "mute.sock"))
        listener.listen()
        time = Time()
        api = ApiClient(
            ServerAddress(unix_path=str(directory / "mute.sock")), retries=time.retries(answer_s=0.05)
        )
        with pytest.raises(
            ServerUnreachable, match=r"did not answer within 0.05 s; try again, or read its log\."
        ):
            api.machines()
        assert time.now == 0
        with pytest.raises(AnswerLost, match=r"did not answer within 0\.05 s; no answer came within 0 s"):
            ApiClient(
                ServerAddress(unix_path=str(directory / "mute.sock")),
                retries=time.retries(answer_s=0.05, change_s=0.0),
            ).create_job(ORDER)


def test_a_job_without_a_request_id_is_not_sent(directory):
    with pytest.raises(ValueError, match="request_id"):
        ApiClient(ServerAddress(unix_path="/nowhere")).create_job(JobRequest(action=Action.RESTART))


async def test_updates_continue_when_the_server_is_back(fleet, directory):
    path = directory / "control.sock"
    api = ApiClient(ServerAddress(unix_path=str(path)))
    pauses = []
    updates = live_updates(api, sleep=pauses.append)
    async with ApiServer(fleet, unix_path=path):
        assert isinstance(await asyncio.to_thread(next, updates), Snapshot)
    gone = await asyncio.to_thread(next, updates)
    assert isinstance(gone, Disconnected)
    assert "went away" in gone.sentence
    gone = await asyncio.to_thread(next, updates)
    assert "No control server answers" in gone.sentence
    async with ApiServer(fleet, unix_path=path):
        assert isinstance(await asyncio.to_thread(next, updates), Snapshot)
        await asyncio.to_thread(updates.close)
    assert pauses == [0.2, 0.5]
