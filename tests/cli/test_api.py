"""The client: addresses, events, and servers that fail in every way."""

import asyncio
import contextlib
import re
import socket
import threading

import pytest

from landline.cli.api import ApiClient, NobodyAnswers, Refused, ServerAddress, ServerGone, parse_server
from landline.cli.events import EVENT_BYTES_MAX, EventTooLarge, event_data
from landline.cli.exits import WrongUse
from landline.cli.live import Gone, live_updates
from landline.fleet.api import JobRequest, Snapshot
from landline.fleet.model import Action
from landline.fleet.web.serve import ApiServer


def test_addresses():
    assert parse_server("unix:///run/x.sock") == ServerAddress(unix_path="/run/x.sock")
    assert parse_server("http://lab.example:5464/") == ServerAddress(host="lab.example", port=5464)
    assert str(parse_server("http://[::1]:5464")) == "http://[::1]:5464"


@pytest.mark.parametrize(
    "url",
    ["", "lab", "unix://x", "unix:///", "http://lab", "http://:80", "https://a:1", "http://a:x", "http://a:1/p",
     "http://u@a:1", "http://[::1:80", "http://a:1?q", "http://a:99999"],
)  # fmt: skip
def test_other_addresses_are_refused(url):
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


def test_an_endless_event_is_not_collected():
    lines = (b"data: " + b"x" * 1_000_000 + b"\n" for _ in range(EVENT_BYTES_MAX // 1_000_000 + 2))
    with pytest.raises(EventTooLarge):
        list(event_data(lines))


@contextlib.contextmanager
def answering(path, *answers: bytes):
    """Somebody on a unix socket who gives one connection after the other a fixed answer, and hangs up."""
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

        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        thread.join()


def http_answer(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_nobody_answers(directory):
    api = ApiClient(ServerAddress(unix_path=str(directory / "none.sock")))
    with pytest.raises(NobodyAnswers) as caught:
        api.status()
    assert caught.value.status == 3
    assert str(caught.value) == (
        f"No control server answers at unix://{directory}/none.sock; start one with 'landline demo' or "
        "'landline serve', or name another with --server."
    )


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "went away"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "went away"),
        (b"SSH-2.0-OpenSSH\r\n", "went away"),
        (http_answer("200 OK", "<html>"), "is no landline control server"),
        (http_answer("200 OK", '{"version": 1}'), "is no landline control server"),
        (http_answer("404 Not Found", "<html>"), "is no landline control server"),
    ],
)
def test_answers_that_are_none(directory, answer, sentence):
    path = directory / "odd.sock"
    with answering(path, answer), pytest.raises(ServerGone, match=sentence) as caught:
        ApiClient(ServerAddress(unix_path=str(path))).status()
    assert caught.value.status == 3


def test_a_failing_server_is_not_wrong_use(directory):
    path = directory / "odd.sock"
    body = '{"code":"internal","message":"Look at \\u001b[31m the log."}'
    with answering(path, http_answer("500 No", body)), pytest.raises(Refused) as caught:
        ApiClient(ServerAddress(unix_path=str(path))).status()
    assert caught.value.status == 3
    assert "\x1b" not in str(caught.value)


def test_a_job_whose_answer_was_lost_is_sent_again_with_the_same_request_id(directory):
    path = directory / "odd.sock"
    view = '{"job":{"id":"1","action":"restart","targets":[],"created_at":1},"executions":[],"events":[]}'
    with answering(path, b"", http_answer("201 Created", view)) as asked:
        request = JobRequest(action=Action.RESTART, request_id="r-1")
        assert ApiClient(ServerAddress(unix_path=str(path))).create_job(request).job.id == "1"
    assert len(asked) == 2
    assert all(b'"request_id":"r-1"' in one for one in asked)


def test_a_job_is_sent_twice_at_most(directory):
    path = directory / "odd.sock"
    with answering(path, b"", b"") as asked, pytest.raises(ServerGone, match="went away"):
        ApiClient(ServerAddress(unix_path=str(path))).create_job(
            JobRequest(action=Action.RESTART, request_id="r-1")
        )
    assert len(asked) == 2


def test_a_job_without_a_request_id_is_not_sent(directory):
    with pytest.raises(ValueError, match="request_id"):
        ApiClient(ServerAddress(unix_path="/nowhere")).create_job(JobRequest(action=Action.RESTART))


async def test_updates_go_on_after_the_server_came_back(fleet, directory):
    path = directory / "control.sock"
    api = ApiClient(ServerAddress(unix_path=str(path)))
    pauses = []
    updates = live_updates(api, sleep=pauses.append)
    async with ApiServer(fleet, unix_path=path):
        assert isinstance(await asyncio.to_thread(next, updates), Snapshot)
    gone = await asyncio.to_thread(next, updates)
    assert isinstance(gone, Gone)
    assert "went away" in gone.sentence
    gone = await asyncio.to_thread(next, updates)
    assert "No control server answers" in gone.sentence
    async with ApiServer(fleet, unix_path=path):
        assert isinstance(await asyncio.to_thread(next, updates), Snapshot)
        await asyncio.to_thread(updates.close)
    assert pauses == [0.2, 0.5]
