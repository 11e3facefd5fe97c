"""Requests and their answers, in both directions. Real sockets, both event loops."""

import asyncio
import logging

import msgspec
import pytest
from tests.line_internals import (
    running_requests,
    send_operation,
    send_request,
    use_correlation,
    waiting_requests,
)

import landline
from landline.codes import Operation

SMALL = landline.SendBuffer(size_bytes=64 * 1024, messages=128)


class Point(msgspec.Struct):
    x: int
    y: int


class Blocker:
    """An async handler that tells what became of it."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self, line, body):
        self.started += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return body


def make_blocker(registry) -> Blocker:
    blocker = Blocker()

    @registry.on("block")
    async def block(line, body):
        return await blocker(line, body)

    return blocker


@pytest.fixture
def both(quick):
    """Both ends of a line on which the client, too, has handlers."""

    class Both:
        def __init__(self, **arguments) -> None:
            self.server = landline.Server()
            self.arguments = arguments
            self.connector = None
            self.registrations = []

        def on_each(self, register) -> None:
            self.registrations.append(register)

        async def __aenter__(self):
            endpoint = await self.server.listen("tcp://127.0.0.1:0")
            self.connector = landline.connect(str(endpoint), backoff=quick, **self.arguments)
            for register in self.registrations:
                register(self.server)
                register(self.connector)
            self.line = await self.connector
            [other] = self.server.lines
            return self.line, other

        async def __aexit__(self, *details):
            await self.line.close()
            await self.server.close()

    return Both


@pytest.mark.parametrize("asker", ["client", "server"])
async def test_plain_and_async_handlers_answer(both, asker):
    def register(registry):
        @registry.on("plain")
        def plain(line, body):
            return ["plain", body]

        @registry.on("async")
        async def coroutine(line, body):
            await asyncio.sleep(0)
            return ["async", body]

        @registry.on("bytes")
        def raw(line, body):
            assert isinstance(body, bytes)
            return body[::-1]

        @registry.on("nothing")
        def nothing(line, body):
            assert body is None

    ends = both()
    ends.on_each(register)
    async with ends as (line, other):
        end = line if asker == "client" else other
        assert await end.request("plain", {"a": 1}) == ["plain", {"a": 1}]
        assert await end.request("async", [1]) == ["async", [1]]
        assert await end.request("bytes", b"abc") == b"cba"
        assert await end.request("nothing") is None
        assert await end.request("async", "x" * 200_000) == ["async", "x" * 200_000]


async def test_typed_bodies_and_answers(pair):
    server = landline.Server()

    @server.on("mirror", body_type=Point)
    def mirror(line, point):
        return Point(point.y, point.x)

    @server.on("raw", body_type=bytes)
    async def raw(line, body):
        return body

    async with pair(server) as (line, _):
        assert await line.request("mirror", Point(1, 2), response_type=Point) == Point(2, 1)
        assert await line.request("mirror", {"x": 1, "y": 2}) == {"x": 2, "y": 1}
        assert await line.request("raw", b"abc", response_type=bytes) == b"abc"
        with pytest.raises(landline.RequestError, match="does not fit") as caught:
            await line.request("mirror", {"x": "one"})
        assert caught.value.code == "bad_request"
        with pytest.raises(landline.RequestError, match="got raw bytes"):
            await line.request("mirror", b"raw")
        for name, value, wanted in (("mirror", Point(1, 2), int), ("raw", b"abc", Point)):
            with pytest.raises(landline.RequestError, match=f"the answer to '{name}' does not fit") as caught:
                await line.request(name, value, response_type=wanted)
            assert caught.value.code == "bad_response"


async def test_many_requests_at_once_get_their_own_answers(pair):
    server = landline.Server()

    @server.on("late")
    async def late(line, number):
        for _ in range(number % 7):
            await asyncio.sleep(0)
        return number

    async with pair(server) as (line, _):
        assert await asyncio.gather(*(line.request("late", n) for n in range(500))) == list(range(500))


@pytest.mark.parametrize("asker", ["client", "server"])
async def test_a_request_without_a_handler_raises_no_handler(both, asker):
    async with both() as (line, other):
        end = line if asker == "client" else other
        with pytest.raises(landline.NoHandler, match="no handler named 'nonsense'") as caught:
            await end.request("nonsense")
        assert caught.value.code == "no_handler"


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_errors_of_handlers(pair, kind, caplog):
    server = landline.Server()

    def fail(line, body):
        if body == "known":
            raise landline.RequestError("not_found", "there is no such thing")
        if body == "formless":
            return object()
        raise ValueError("secret detail")

    if kind == "plain":
        server.on("fail")(fail)
    else:

        @server.on("fail")
        async def coroutine(line, body):
            return fail(line, body)

    async with pair(server) as (line, _):
        with pytest.raises(landline.RequestError) as caught:
            await line.request("fail", "known")
        assert (caught.value.code, caught.value.message) == ("not_found", "there is no such thing")
        assert str(caught.value) == "there is no such thing (not_found)"
        for body in ("unknown", "formless"):
            with pytest.raises(landline.RequestError) as caught:
                await line.request("fail", body)
            # What went wrong inside is for our own log only.
            assert caught.value.code == "failed"
            assert str(caught.value) == "the handler for 'fail' failed (failed)"
        assert "secret detail" in caplog.text


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
async def test_the_error_of_a_handlers_own_request_is_not_its_answer(scheme, caplog):
    upstream, server = landline.Server(), landline.Server()

    @upstream.on("refuse")
    async def refuse(line, body):
        raise landline.RequestError("not_today", "a word for the gateway alone")

    @upstream.on("hang")
    async def hang(line, body):
        await asyncio.Event().wait()

    @upstream.on("end")
    async def end(line, body):
        line.abort(landline.Code.NORMAL)

    async with upstream.listen("tcp://127.0.0.1:0") as behind, landline.connect(str(behind)) as inner:

        @server.on("gateway")
        async def gateway(line, question):
            name, timeout, response_type = question
            types = {"int": int, "Any": object}
            return await inner.request(name, timeout=timeout, response_type=types[response_type])

        @server.on("call")
        async def call(line, name):
            return await landline.call(str(behind), name, timeout=0.2)

        @server.on("deliberate")
        async def deliberate(line, name):
            try:
                return await inner.request(name)
            except landline.RequestError as error:
                raise landline.RequestError(error.code, error.message) from error

        @server.on("decode")
        def decode(line, text):
            return msgspec.json.decode(text, type=int)

        upstream.on("text")(lambda line, body: "text")

        async with server.listen(f"{scheme}://127.0.0.1:0") as endpoint:

            async def failure(name, value):
                with pytest.raises(landline.RequestError) as caught:
                    await landline.call(str(endpoint), name, value)
                assert type(caught.value) in {landline.RequestError, landline.NoHandler}
                return caught.value.code

            for question in (
                ("nobody", 5, "Any"),
                ("refuse", 5, "Any"),
                ("hang", 0.05, "Any"),
                ("text", 5, "int"),
                ("end", 5, "Any"),
            ):
                caplog.clear()
                assert await failure("gateway", question) == "failed", question
                assert "the handler for 'gateway' of" in caplog.text
                assert "Traceback" not in caplog.text or question[0] == "end"
            # The line is over; a call makes one of its own.
            for name in ("nobody", "refuse", "hang"):
                assert await failure("call", name) == "failed", name
            # What a handler decodes by itself is no fault of who asked.
            assert await failure("decode", "no number") == "failed"
            assert await failure("deliberate", "anything") == "failed"


async def test_a_handler_may_pass_on_the_error_of_its_own_request(pair):
    upstream, server = landline.Server(), landline.Server()

    @upstream.on("refuse")
    async def refuse(line, body):
        raise landline.RequestError("not_today", "come back tomorrow")

    async with pair(upstream) as (inner, _):

        @server.on("gateway")
        async def gateway(line, name):
            try:
                return await inner.request(name)
            except landline.RequestError as error:
                raise landline.RequestError(error.code, error.message) from error

        async with pair(server) as (line, _):
            with pytest.raises(landline.RequestError, match="come back tomorrow") as caught:
                await line.request("gateway", "refuse")
            assert caught.value.code == "not_today"
            with pytest.raises(landline.NoHandler):
                await line.request("gateway", "nobody")


async def test_a_message_s_handler_whose_own_request_failed_is_logged_as_failed(pair, until, caplog):
    upstream, server = landline.Server(), landline.Server()
    async with pair(upstream) as (inner, _):

        @server.on("note")
        async def note(line, body):
            await inner.request("nobody")

        async with pair(server) as (line, _):
            await line.send(1, name="note")
            await until(lambda: "a message 'note' whose handler failed: a request of its own" in caplog.text)
            assert "Traceback" not in caplog.text


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_an_answer_that_is_too_large_raises_at_the_caller(pair, kind):
    server = landline.Server()
    if kind == "plain":

        @server.on("large")
        def large(line, size):
            return b"x" * size
    else:

        @server.on("large")
        async def large(line, size):
            return b"x" * size

    async with pair(server, limits=landline.Limits(message_bytes=2048)) as (line, _):
        assert len(await line.request("large", 2048)) == 2048
        with pytest.raises(landline.RequestError, match="the answer is a message of 2049 bytes") as caught:
            await line.request("large", 2049)
        assert caught.value.code == "too_large"


async def test_a_request_that_is_too_large_raises_at_once(pair):
    server = landline.Server(limits=landline.Limits(message_bytes=1024))
    async with pair(server) as (line, _):
        with pytest.raises(landline.MessageTooLarge):
            await line.request("large", b"x" * 1025)
        assert await line.drain(0)


@pytest.mark.parametrize("asker", ["client", "server"])
async def test_a_timeout_cancels_the_peer_s_handler(both, until, asker):
    ends = both()
    blockers = []
    ends.on_each(lambda registry: blockers.append(make_blocker(registry)))
    async with ends as (line, other):
        end, blocker = (line, blockers[0]) if asker == "client" else (other, blockers[1])
        with pytest.raises(landline.RequestTimeout, match=r"no answer to 'block' within 0\.05 s") as caught:
            await end.request("block", timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        await until(lambda: blocker.cancelled == 1)
        blocker.go.set()
        assert await end.request("block", "next") == "next"


async def test_cancelling_the_call_cancels_the_peer_s_handler(pair, until):
    server = landline.Server()
    blocker = make_blocker(server)
    async with pair(server) as (line, _):
        call = asyncio.create_task(line.request("block", timeout=None))
        await until(lambda: blocker.started)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: blocker.cancelled == 1)


async def test_a_request_cancelled_before_its_handler_started_does_not_count(pair, until):
    server = landline.Server()
    blocker = make_blocker(server)
    async with pair(server) as (line, other):
        for _ in range(70):
            # The request and its cancellation leave in one write.
            call = asyncio.create_task(line.request("block", timeout=None))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        blocker.go.set()
        assert await line.request("block", "still room") == "still room"
        await until(lambda: running_requests(other) == 0)


async def test_an_answer_to_a_cancelled_request_is_dropped(pair, until):
    server = landline.Server()
    started = asyncio.Event()

    @server.on("stubborn")
    async def stubborn(line, body):
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "an answer all the same"

    async with pair(server) as (line, other):
        call = asyncio.create_task(line.request("stubborn", timeout=None))
        await started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: running_requests(other) == 0)
        await line.ping()
        assert not line.is_closed


async def test_sixty_four_run_at_once_and_the_rest_wait(pair, until):
    server = landline.Server()
    blocker = make_blocker(server)

    @server.on("plain")
    def plain(line, body):
        return blocker.started

    async with pair(server) as (line, _):
        calls = [asyncio.create_task(line.request("block", n, timeout=None)) for n in range(80)]
        await asyncio.sleep(0)
        # Plain handlers answer at once, and this one comes behind all the others.
        assert await line.request("plain") in range(65)
        await until(lambda: blocker.started == 64)
        await line.ping()
        assert blocker.started == 64
        assert line.buffered_bytes > 0
        calls[70].cancel()
        calls[0].cancel()
        await until(lambda: blocker.started == 65)
        blocker.go.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [a for a in answers if not isinstance(a, BaseException)] == [
            n for n in range(80) if n not in {0, 70}
        ]
        assert blocker.started == 79
        assert await line.drain()


@pytest.mark.parametrize("body", [b"\x92\xa1\xff\xa1x", b"\xc1", b"", b"\x92\x01\x02", b"\x91" * 5000])
async def test_an_unreadable_error_answer_raises_failed(pair, body):
    server = landline.Server()

    @server.on("odd")
    async def odd(line, _):
        await send_operation(line, Operation.ERROR, "", body, correlation=1)
        await asyncio.Event().wait()

    async with pair(server) as (line, _):
        with pytest.raises(landline.RequestError, match="an error that cannot be read") as caught:
            await line.request("odd", timeout=None)
        assert caught.value.code == "failed"


@pytest.mark.parametrize("body", [b"\xa1\xff", b"\x91" * 5000, b"\xc1"])
async def test_a_request_with_an_invalid_body_is_a_bad_request(pair, body):
    server = landline.Server()

    @server.on("any")
    def take_any(line, value):
        return value

    async with pair(server) as (line, _):
        assert await line.request("any", 1) == 1
        answer = await send_request(line, "any", body)
        assert answer.operation is Operation.ERROR
        assert msgspec.msgpack.decode(answer.body)[0] == "bad_request"


async def test_a_second_request_with_one_correlation_id_raises(pair, until):
    server = landline.Server()
    blocker = make_blocker(server)
    async with pair(server) as (line, _):
        first = asyncio.create_task(line.request("block", "first", timeout=None))
        await until(lambda: blocker.started)
        use_correlation(line, 1)
        second = asyncio.create_task(line.request("block", "second", timeout=None))
        with pytest.raises(landline.RequestError, match="one correlation id"):
            await second
        assert blocker.started == 1
        first.cancel()
        await asyncio.wait([first])


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_answers_wait_for_room_in_the_send_buffer(pair, until, kind):
    server = landline.Server(send_buffer=SMALL)
    if kind == "plain":

        @server.on("echo")
        def echo(line, body):
            return body
    else:

        @server.on("echo")
        async def echo(line, body):
            return body

    async with pair(server) as (line, other):
        for number in range(128):
            other.send_nowait(number)
        call = asyncio.create_task(line.request("echo", "late", timeout=None))
        await line.ping()
        assert not call.done()
        assert [await anext(line) for _ in range(128)] == list(range(128))
        assert await call == "late"


async def test_requests_wait_for_room_too_and_time_out_without_having_been_sent(pair, until):
    server = landline.Server()
    seen = []

    @server.on("ask")
    def ask(line, body):
        seen.append(body)

    async with pair(server, send_buffer=SMALL) as (line, other):
        for number in range(128):
            line.send_nowait(number)
        with pytest.raises(landline.RequestTimeout):
            await line.request("ask", "never sent", timeout=0.02)
        call = asyncio.create_task(line.request("ask", "sent later"))
        assert [await anext(other) for _ in range(128)] == list(range(128))
        await call
        assert seen == ["sent later"]


async def test_requests_of_a_lost_line_raise_request_lost(both, until):
    ends = both()
    blockers = []
    ends.on_each(lambda registry: blockers.append(make_blocker(registry)))
    async with ends as (line, other):
        calls = [asyncio.create_task(end.request("block", timeout=None)) for end in (line, other)]
        await until(lambda: all(blocker.started for blocker in blockers))
        other.abort(landline.Code.NORMAL, "no more")
        for call in calls:
            with pytest.raises(landline.RequestLost, match="no more"):
                await call
        # What the lost requests had started is stopped.
        await until(lambda: all(blocker.cancelled for blocker in blockers))


async def test_a_request_survives_the_loss_of_its_socket(both, until, states):
    seen = states()
    ends = both(on_state=seen)
    blockers = []
    ends.on_each(lambda registry: blockers.append(make_blocker(registry)))
    async with ends as (line, other):
        calls = [asyncio.create_task(end.request("block", end.epoch, timeout=None)) for end in (line, other)]
        await until(lambda: all(blocker.started for blocker in blockers))
        for end in (line, other, line):
            epoch = line.epoch
            end.break_link()
            await until(lambda: line.epoch > epoch and line.state is landline.LineState.ONLINE)  # noqa: B023
        # Sent while there is no link at all.
        line.break_link()
        late = asyncio.create_task(line.request("block", "late", timeout=None))
        for blocker in blockers:
            blocker.go.set()
        assert await asyncio.gather(*calls) == [1, 1]
        assert await late == "late"
        assert [blocker.started for blocker in blockers] == [2, 1]
        assert sum(blocker.cancelled for blocker in blockers) == 0
    assert all(change.resumed for change in seen.find(landline.LineState.ONLINE)[1:])


async def test_a_timeout_cancels_the_handler_after_a_resume(pair, until):
    server = landline.Server()
    blocker = make_blocker(server)
    async with pair(server) as (line, _):
        call = asyncio.create_task(line.request("block", timeout=None))
        await until(lambda: blocker.started)
        line.break_link()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: blocker.cancelled)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.INFO, logger="landline")


async def test_requests_wait_unacknowledged_while_there_is_no_room_for_answers(pair, until):
    server = landline.Server(send_buffer=SMALL)
    async with pair(server) as (line, other):
        # Nobody reads these on the client's side, so the server's send buffer fills up and stays full.
        with pytest.raises(landline.BufferFull):
            while True:
                other.send_nowait(b"x" * 1000)
        calls = [asyncio.create_task(line.request("nobody", n, timeout=None)) for n in range(50)]
        await until(lambda: waiting_requests(other) == 50)
        assert running_requests(other) == 0
        calls[7].cancel()
        await until(lambda: waiting_requests(other) == 49)
        reading = asyncio.create_task(anext(line))
        while not all(call.done() for call in calls):
            await asyncio.wait({reading, *calls}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading = asyncio.create_task(anext(line))
        reading.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(answer, landline.NoHandler) for answer in answers) == 49
