"""The client: connect, stay connected, come back, give up. Real sockets, both event loops."""

import asyncio
import contextlib
import logging
import random

import pytest
from tests.line_internals import has_session, host_of, session_of

import landline
from landline.session.bodies import Challenge, ResumeTicket, Welcome, encode_body
from landline.session.constants import Kind
from landline.session.handshake import ClientHandshake
from landline.testing import FaultProxy

ONCE = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)
ONLINE = landline.LineState.ONLINE


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"urls": []}, "at least one URL"),
        ({"urls": "http://host"}, "does not begin with one of"),
        ({"urls": ["tcp://one", "nonsense"]}, "'nonsense': it does not begin with"),
        ({"urls": "tcp://host", "stagger_s": 0.001}, r"stagger_s=0\.001\): it must be 0\.01 to 10 seconds"),
        ({"urls": "tcp://host", "stagger_s": 11}, r"stagger_s=11\)"),
        ({"urls": "tcp://host", "stagger_s": float("nan")}, r"stagger_s=nan\)"),
        ({"urls": "tcp://host", "identity": "é" * 101}, "the identity has 202 bytes"),
        (
            {"urls": "tcp://host", "connect_timeout_s": 0},
            r"connect_timeout_s=0\): it must be more than 0 seconds, or None",
        ),
        ({"urls": "tcp://host", "connect_timeout_s": float("nan")}, r"connect_timeout_s=nan\)"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(landline.ConfigurationError, match=text):
        landline.connect(**arguments)


def test_a_token_that_is_no_secret_is_refused():
    with pytest.raises(landline.ConfigurationError, match="15 bytes is too short"):
        landline.SharedToken("x" * 15)
    assert "x" * 16 not in repr(landline.SharedToken("x" * 16))


async def test_a_connector_is_used_once(quick):
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint), backoff=quick)
        async with connector:
            with pytest.raises(RuntimeError, match="used only once"):
                await connector


async def test_an_awaited_connector_gives_a_line_whose_close_ends_it(quick, until):
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        before = asyncio.all_tasks()
        connector = landline.connect(str(endpoint), backoff=quick, identity="ada")
        line = await connector
        assert await line.ping() > 0
        line.break_link()
        await until(lambda: line.epoch == 2)
        with pytest.raises(RuntimeError, match="used only once"):
            await connector
        await line.close()
        # The goodbye has arrived, and nothing of the connector is left.
        assert server.lines == []
        assert asyncio.all_tasks() == before
        await line.close()


async def test_closing_an_awaited_line_ends_its_wait_for_the_next_attempt(quick, until):
    server = landline.Server()
    slow = landline.Backoff(first_s=600, cap_s=600)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy("127.0.0.1", endpoint.port) as proxy,
    ):
        before = asyncio.all_tasks()
        line = await landline.connect(proxy.url, backoff=slow)
        await proxy.refuse()
        proxy.reset()
        await until(lambda: line.state is landline.LineState.RECONNECTING)
        line.abort(landline.Code.NORMAL)
        await line.close()
        await until(lambda: asyncio.all_tasks() <= before)


async def test_callbacks_of_a_connector_are_registered_as_decorators(quick, until):
    server = landline.Server()
    seen = []
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint), backoff=quick)

        @connector.on_state
        def changed(line, change):
            seen.append(change.state.value)

        @connector.on_session_lost
        def lost(line, unconfirmed):
            seen.append([entry.value for entry in unconfirmed])

        line = await connector

        @line.on_state
        def changed_again(line, change):
            changed(line, change)

        await line.send("kept")
        await line.ping()
        await server.close(timeout=0, retry_after_s=600)
        await until(lambda: "reconnecting" in seen)
        assert seen == ["online", ["kept"], "reconnecting"]
        await line.close()
        assert seen[-1] == "closed"


def test_the_callbacks_of_a_connector_are_checked():
    connector = landline.connect("tcp://127.0.0.1:1")
    with pytest.raises(landline.ConfigurationError, match=r"Connector\.on_state\(\).*\(line, change\)"):
        connector.on_state(lambda line: None)
    with pytest.raises(landline.ConfigurationError, match=r"on_session_lost\(\).*\(line, unconfirmed\)"):
        connector.on_session_lost(lambda line: None)


@pytest.mark.parametrize("urls", [1, 2])
async def test_the_type_of_a_failed_connection_does_not_depend_on_the_number_of_urls(
    fake_server, nowhere, urls
):
    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with fake_server(answer) as url:
        with pytest.raises(landline.ConnectFailed) as caught:
            await landline.connect([url] * urls)
        assert type(caught.value) is landline.ConnectFailed
        assert isinstance(caught.value, ConnectionError)
        assert isinstance(caught.value.__cause__, landline.ProtocolError)
        with pytest.raises(landline.GaveUp) as caught:
            await landline.connect([nowhere] * urls, backoff=ONCE)
        assert isinstance(caught.value, ConnectionError)
        assert type(caught.value.last) is landline.ConnectFailed
        with pytest.raises(landline.ConnectFailed) as caught:
            await landline.call([url] * urls, "add")
        assert type(caught.value) is landline.ConnectFailed


# The first connection.


async def test_giving_up_says_how_often_and_why(nowhere, states):
    seen = states()
    backoff = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=3)
    with pytest.raises(landline.GaveUp, match="gave up after 3 attempts") as caught:
        async with landline.connect(nowhere, backoff=backoff, on_state=seen):
            pytest.fail("connected to nobody")
    assert caught.value.attempts == 3
    assert isinstance(caught.value.last, landline.ConnectFailed)
    assert isinstance(caught.value.last.__cause__, ConnectionRefusedError)
    waits = seen.find(landline.LineState.RECONNECTING)
    assert seen.names == ["reconnecting", "connecting"] * 2 + ["closed"]
    assert [change.attempt for change in waits] == [2, 3]
    assert all(change.cause is landline.DisconnectCause.CONNECT_FAILED for change in waits)
    assert all("connection refused" in change.detail for change in waits)
    assert all(0 <= change.due_in_s <= 0.002 for change in waits)
    assert seen.changes[-1].cause is landline.DisconnectCause.GAVE_UP


async def test_the_first_connection_has_a_time_limit_that_names_the_last_failure(nowhere, quick, states):
    seen = states()
    connector = landline.connect(nowhere, backoff=quick, connect_timeout_s=0.2, on_state=seen)
    with pytest.raises(landline.GaveUp) as caught:
        await connector
    assert isinstance(caught.value.last, landline.ConnectFailed)
    assert isinstance(caught.value.last.__cause__, ConnectionRefusedError)
    assert caught.value.__cause__ is caught.value.last
    assert caught.value.attempts > 0
    assert " and 0.2 s (connect_timeout_s): " in str(caught.value)
    assert seen.changes[-1].state is landline.LineState.CLOSED
    assert seen.changes[-1].cause is landline.DisconnectCause.GAVE_UP


async def test_the_time_limit_reports_a_wrong_certificate(certificates, quick):
    server = landline.Server()
    options = landline.TransportOptions(tls=certificates.server)
    async with server.listen("tls://127.0.0.1:0", options=options) as endpoint:
        text = "no server has answered yet"
        timeout_s = 0.25
        # A busy machine may not finish one attempt within the first limits.
        while "no server has answered yet" in text:
            timeout_s *= 2
            with pytest.raises(landline.GaveUp) as caught:
                # The system's authorities know nothing of it.
                async with landline.connect(str(endpoint), backoff=quick, connect_timeout_s=timeout_s):
                    pytest.fail("trusted a stranger")
            text = str(caught.value)
        assert "the server's certificate is not accepted: " in text


async def test_the_time_limit_reports_a_silent_server(fake_server):
    async def be_silent(reader, writer):
        await reader.read()

    async with fake_server(be_silent) as url:
        with pytest.raises(
            landline.GaveUp, match=r"gave up after 0 attempts.* no server has answered yet"
        ) as caught:
            async with landline.connect(url, connect_timeout_s=0.1):
                pytest.fail("connected to nobody")
        assert caught.value.last is None


async def test_the_time_limit_is_for_the_first_connection_only(quick, until, states):
    async with (
        landline.Server().listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy("127.0.0.1", endpoint.port) as proxy,
        landline.connect(proxy.url, backoff=quick, connect_timeout_s=0.5) as line,
    ):
        await proxy.refuse()
        proxy.reset()
        await until(lambda: line.state is landline.LineState.RECONNECTING)
        await until(lambda: line.last_change.attempt > 10)
        proxy.accept()
        await until(lambda: line.epoch == 2)


async def test_a_client_waits_for_a_server_that_starts_later(quick, until, states, tmp_path):
    seen = states()
    server = landline.Server()

    async def connect():
        async with landline.connect(f"unix://{tmp_path}/late", backoff=quick, on_state=seen) as line:
            return line.epoch

    client = asyncio.create_task(connect())
    await until(lambda: len(seen.changes) > 3)
    async with server.listen(f"unix://{tmp_path}/late"):
        assert await client == 1
    assert "no such socket" in seen.changes[0].detail


async def test_cancelling_the_first_connection_gives_up(nowhere):
    entering = asyncio.ensure_future(landline.connect(nowhere, backoff=landline.Backoff()))
    await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering


async def test_an_unexpected_error_is_raised_at_once():
    with pytest.raises((UnicodeError, OSError, landline.GaveUp)):
        async with landline.connect("tcp://" + "a" * 70 + ".invalid", backoff=ONCE):
            pytest.fail("connected to nobody")


@pytest.mark.parametrize("rest", [b"\0\0\0\x01\x63", b"\xff\xff\xff\xff\x10", b"\0\0\0\0"])
async def test_a_server_that_breaks_the_protocol_ends_the_line(rest, states, until, fake_server):
    async def welcome(reader, writer):
        writer.write(encode_body(Kind.CHALLENGE, Challenge(1, b"n" * 32)))
        await reader.readexactly(5)
        answer = Welcome(b"s" * 16, b"k" * 32, 1, False, 0, landline.Heartbeat(), landline.Limits(), 60.0)
        writer.write(encode_body(Kind.WELCOME, answer) + rest)
        await writer.drain()
        await reader.read()

    seen = states()
    async with fake_server(welcome) as url, landline.connect(url, on_state=seen) as line:
        await until(lambda: line.is_closed)
        with pytest.raises(landline.ProtocolError, match="the server broke the protocol"):
            await anext(line)
        assert seen.changes[-1].cause is landline.DisconnectCause.PROTOCOL_ERROR


# Lost links.


async def test_messages_cross_the_loss_of_a_link_in_both_directions(pair, until, states):
    seen = states()
    async with pair(on_state=seen) as (line, other):
        for number in range(20):
            await line.send(["up", number])
            await other.send(["down", number])
            if number % 5 == 2:
                (line if number % 2 else other).break_link()
        assert [await anext(other) for _ in range(20)] == [["up", number] for number in range(20)]
        assert [await anext(line) for _ in range(20)] == [["down", number] for number in range(20)]
        await until(lambda: line.state is ONLINE)
        assert line.session_id == other.session_id
        assert line.epoch == other.epoch > 1
    losses = seen.find(landline.LineState.RECONNECTING)
    assert all(change.cause is landline.DisconnectCause.LINK_LOST for change in losses)
    assert all(change.resumed for change in seen.find(ONLINE)[1:])
    assert [change.epoch for change in seen.find(ONLINE)] == sorted(
        {change.epoch for change in seen.find(ONLINE)}
    )


async def test_the_older_link_gets_link_replaced(quick, until, states):
    server = landline.Server()
    server_states = states()
    server.on_state(server_states)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as between,
        landline.connect(between.url, backoff=quick) as line,
    ):
        [other] = server.lines
        [link] = between.connections
        # To the server, the old link looks alive; nothing more comes from it.
        link.end(client="reset", server="abandon")
        await line.send("over the new link")
        assert await anext(other) == "over the new link"
        assert other.epoch == line.epoch == 2
        # The server closed the old one by itself.
        await until(lambda: link.is_over)
        assert server_states.names == ["online", "online"]
        assert [change.resumed for change in server_states.changes] == [False, True]


async def test_a_thief_without_the_secret_gets_a_session_of_its_own(quick, until):
    server = landline.Server()

    async def handshake(endpoint, ticket, identity):
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        try:
            it = ClientHandshake(
                random=random.SystemRandom(),
                auth=landline.Anonymous(),
                identity=identity,
                limits=landline.Limits(),
                resume=ticket,
            )
            while it.welcome is None:
                it.feed(await reader.read(65536))
                writer.write(it.data_to_send())
            return it.welcome
        finally:
            writer.close()
            await writer.wait_closed()

    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        landline.connect(str(endpoint), backoff=quick, identity="owner") as line,
    ):
        await line.send("private")
        ticket = session_of(line).ticket
        stolen = ResumeTicket(ticket.session, b"?" * 32, ticket.epoch, 0)
        welcome = await handshake(endpoint, stolen, "owner")
        assert not welcome.resumed
        assert welcome.session != ticket.session
        # Even with the secret, no other identity resumes the session.
        welcome = await handshake(endpoint, ticket, "another identity")
        assert not welcome.resumed
        # What cannot have been received is not believed either.
        beyond = ResumeTicket(ticket.session, ticket.secret, ticket.epoch, 99)
        assert not (await handshake(endpoint, beyond, "owner")).resumed
        # The owner has noticed nothing.
        assert line.epoch == 1
        assert line.state is ONLINE
        line.break_link()
        await until(lambda: line.epoch == 2)
        other = next(entry for entry in server.lines if entry.session_id == line.session_id)
        assert await anext(other) == "private"


async def test_a_session_that_was_not_resumed_in_time_is_lost_on_both_sides(quick, until, states):
    server = landline.Server(resume_window_s=0)
    server_states = states()
    server.on_state(server_states)
    server_lost, client_lost = [], []
    server.on_session_lost(lambda line, lost: server_lost.append((line, [entry.body for entry in lost])))
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as between,
        landline.connect(
            between.url,
            backoff=quick,
            on_session_lost=lambda line, lost: client_lost.append((line, [entry.body for entry in lost])),
        ) as line,
    ):
        [other] = server.lines
        before = line.session_id
        await line.send(b"from the client")
        await other.send(b"from the server")
        request = asyncio.create_task(line.request("never", timeout=None))
        await until(lambda: line.buffered_bytes and other.buffered_bytes)
        between.hold()
        between.reset()
        await until(lambda: other.is_closed)
        between.heal()
        await until(lambda: line.state is ONLINE and line.session_id != before)
        assert server_lost == [(other, [b"from the server"])]
        assert client_lost == [(line, [b"from the client"])]
        assert other.last_change.cause is landline.DisconnectCause.EXPIRED
        assert "not resumed within 0 s" in other.last_change.detail
        with pytest.raises(landline.LineClosed, match="not resumed"):
            while True:
                await anext(other)
        with pytest.raises(landline.RequestError):
            await request
        # The line continues with the new session.
        [fresh] = server.lines
        await line.send("new")
        assert await anext(fresh) == "new"
        assert line.last_change.resumed is False


async def test_without_a_callback_a_lost_session_with_unconfirmed_messages_ends_the_line(quick, until):
    server = landline.Server(resume_window_s=0)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as between,
        landline.connect(between.url, backoff=quick) as line,
    ):
        [other] = server.lines
        reader = asyncio.create_task(anext(line))
        await line.send(b"one")
        await line.send({"two": 2}, name="named")
        between.hold()
        between.reset()
        await until(lambda: other.is_closed)
        between.heal()
        with pytest.raises(landline.SessionLost, match="no longer has the session") as caught:
            await reader
        bodies = [entry.body for entry in caught.value.unconfirmed]
        # The named one had no handler: whether its confirmation came back before the cut is chance.
        assert bodies[:1] == [b"one"]
        assert line.is_closed
        assert line.last_change.cause is landline.DisconnectCause.EXPIRED
        with pytest.raises(landline.SessionLost):
            await line.send("more")
        await until(lambda: not server.lines)


async def test_without_a_callback_a_line_survives_a_lost_session_without_lost_messages(quick, until):
    server = landline.Server(resume_window_s=0)
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as between,
        landline.connect(between.url, backoff=quick) as line,
    ):
        [other] = server.lines
        before = line.session_id
        between.hold()
        between.reset()
        await until(lambda: other.is_closed)
        # Sent while there was nobody; still in the session that will turn out to be lost... nothing is.
        between.heal()
        await until(lambda: line.state is ONLINE and line.session_id != before)


# A server that goes and comes back.


async def test_clients_come_back_to_the_next_server_on_the_same_port(quick, until, states):
    seen = states()
    lost = []
    # No heartbeat will wake those who wait for the second one.
    first, second = landline.Server(), landline.Server(heartbeat=landline.Heartbeat(interval_s=3600))

    @second.on("who")
    def who(line, body):
        return "second"

    async with first.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(
            str(endpoint),
            backoff=quick,
            on_state=seen,
            on_session_lost=lambda line, unconfirmed: lost.append([entry.body for entry in unconfirmed]),
        )
        line = await connector
        await line.send(b"never taken")
        await line.ping()
        pending = asyncio.create_task(line.request("who", timeout=None))
        with pytest.raises(landline.NoHandler):
            await pending
        await first.close(reason="an update", retry_after_s=0.01, spread_s=0.01, timeout=0)
    await until(lambda: landline.LineState.RECONNECTING in {change.state for change in seen.changes})
    # Between two sessions: waits for the next one, and is not an error.
    sending = asyncio.create_task(line.send("for the second"))
    asking = asyncio.create_task(line.request("who", timeout=None))
    if not has_session(line):
        with pytest.raises(landline.BufferFull):
            line.send_nowait("now")
    async with second.listen(str(endpoint)):
        assert await asking == "second"
        await sending
        [other] = second.lines
        assert await anext(other) == "for the second"
        await line.close()
    [change] = [
        change
        for change in seen.find(landline.LineState.RECONNECTING)
        if change.cause is landline.DisconnectCause.CLOSED_BY_PEER
    ]
    assert change.detail == "an update"
    assert 0.01 <= change.due_in_s <= 0.02
    assert lost == [[b"never taken"]]


async def test_requests_are_lost_when_the_server_goes(quick, until):
    server = landline.Server()
    started = asyncio.Event()

    @server.on("slow")
    async def slow(line, body):
        started.set()
        await asyncio.Event().wait()

    async with server.listen("tcp://127.0.0.1:0") as endpoint, contextlib.AsyncExitStack() as stack:
        line = await stack.enter_async_context(landline.connect(str(endpoint), backoff=quick))
        pending = asyncio.create_task(line.request("slow", timeout=None))
        await started.wait()
        await server.close(reason="bye", timeout=0)
        with pytest.raises(landline.RequestLost, match="bye"):
            await pending


async def test_giving_up_after_a_connection_reports_unconfirmed_messages(states, until):
    server = landline.Server()
    seen = states()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(
            str(endpoint),
            backoff=landline.Backoff(first_s=0.001, cap_s=0.002, attempts=3, stable_after_s=0),
            on_state=seen,
        )
        line = await connector
        [other] = server.lines
        await line.send(b"never taken")
        await line.ping()
        # As a server that crashes: no goodbye, and nobody listens any more.
        for listener in server._host.listeners.opened:
            listener.close()
        other.break_link()
        with pytest.raises(landline.SessionLost, match="gave up after 3 attempts") as caught:
            await anext(line)
        assert [entry.body for entry in caught.value.unconfirmed] == [b"never taken"]
        assert isinstance(caught.value.__cause__, landline.GaveUp)
        assert seen.changes[-1].cause is landline.DisconnectCause.GAVE_UP
        await line.close()


async def test_giving_up_later_tells_the_callback(states, until):
    server = landline.Server()
    lost = []
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(
            str(endpoint),
            backoff=landline.Backoff(first_s=0.001, cap_s=0.002, attempts=2, stable_after_s=0),
            on_session_lost=lambda line, unconfirmed: lost.extend(entry.body for entry in unconfirmed),
        )
        line = await connector
        [other] = server.lines
        await line.send(b"never taken")
        await line.ping()
        for listener in server._host.listeners.opened:
            listener.close()
        other.break_link()
        with pytest.raises(landline.GaveUp):
            await anext(line)
        assert lost == [b"never taken"]
        await line.close()


async def test_closing_while_there_is_no_link_stays_closed(until, states):
    server = landline.Server()
    seen = states()
    troubles = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: troubles.append(context))
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as between,
        landline.connect(
            between.url, backoff=landline.Backoff(first_s=0.001, cap_s=0.001), on_state=seen
        ) as line,
    ):
        between.hold()
        between.reset()
        # The next attempt has connected to the proxy, and waits for the server's challenge.
        await until(lambda: between.connections and line.state is landline.LineState.CONNECTING)
        await line.close()
        between.heal()
        await until(lambda: not between.connections)
        assert line.is_closed
        assert seen.names[-1] == "closed"
        assert troubles == []
        with pytest.raises(landline.LineClosed):
            await line.send("too late")


async def test_closing_after_a_loss_drains_over_the_next_link(quick, until):
    server = landline.Server()
    taken = []

    @server.on_message
    def take(line, message):
        taken.append(message)

    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as between,
        landline.connect(between.url, backoff=quick) as line,
    ):
        between.hold()
        between.reset()
        await until(lambda: line.state is not ONLINE)
        for number in range(5):
            await line.send(number)
        closing = asyncio.create_task(line.close())
        await asyncio.sleep(0)
        assert not line.is_closed
        between.heal()
        await closing
    assert taken == list(range(5))


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.INFO, logger="landline")


async def test_alternatives_of_a_goodbye_are_tried_first(until):
    first, second = landline.Server(), landline.Server()
    async with first.listen("tcp://127.0.0.1:0") as here, second.listen("tcp://127.0.0.1:0") as there:
        connector = landline.connect(str(here), backoff=landline.Backoff(first_s=0.001, cap_s=0.002))
        async with connector as line:
            await first.close(retry_after_s=0.0, alternatives=["nonsense", str(there)])
            await until(lambda: second.lines)
            await until(lambda: line.state == "online")


async def test_a_line_closed_before_it_is_connected_does_not_keep_its_maker_waiting(nowhere):
    def close(line, change):
        line.abort(landline.Code.NORMAL)

    with pytest.raises(landline.LineClosed, match="closed before it was connected"):
        async with landline.connect(nowhere, on_state=close):
            pytest.fail("connected to nobody")


async def test_a_line_closed_while_its_endpoints_are_tried_was_never_connected(nowhere, fake_server, quick):
    lines = []

    async def hang_up(reader, writer):
        for line in lines:
            line.abort(landline.Code.NORMAL)

    async with fake_server(hang_up) as url:
        endpoints = [url, nowhere]
        with pytest.raises(landline.LineClosed, match="closed before it was connected"):
            async with landline.connect(
                endpoints, backoff=quick, on_state=lambda line, change: lines.append(line)
            ):
                pytest.fail("connected to nobody")


async def test_between_the_end_of_a_session_and_the_next_one_senders_wait(until, states):
    """The server announces that it stops and names another one: the line continues there and loses no message."""
    first, second = landline.Server(), landline.Server()
    seen = states()
    refused: list[type] = []

    def changed(line, change):
        seen(line, change)
        if change.state is landline.LineState.RECONNECTING:
            with pytest.raises(landline.BufferFull) as caught:
                line.send_nowait("at once")
            refused.append(caught.type)

    async with (
        second.listen("tcp://127.0.0.1:0") as there,
        first.listen("tcp://127.0.0.1:0") as here,
        landline.connect(str(here), on_state=changed) as line,
    ):
        await until(lambda: first.lines)
        sending = []
        ended = host_of(line).line_ended

        def line_ended(line, event):
            # In the turn in which the goodbye is read, before the connector has seen it.
            sending.append(asyncio.create_task(line.send("in between")))
            with pytest.raises(landline.BufferFull):
                line.send_nowait("at once")
            ended(line, event)

        host_of(line).line_ended = line_ended
        await first.close(retry_after_s=0.0, alternatives=[str(there)])
        await until(lambda: second.lines)
        assert await anext(second.lines[0]) == "in between"
        await asyncio.gather(*sending)
    assert refused == [landline.BufferFull]
    [gone] = seen.find(landline.LineState.RECONNECTING)
    assert gone.code is landline.Code.GOING_AWAY


async def test_sending_after_a_goodbye_has_a_time_limit(until):
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint))
        line = await connector
        await server.close(retry_after_s=600)
        await until(lambda: line.state is landline.LineState.RECONNECTING)
        with pytest.raises(
            landline.SendTimeout, match=r"no room .* within 0\.05 s; nothing was sent"
        ) as caught:
            await line.send("late", timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, landline.BufferFull)
        with pytest.raises(landline.SendTimeout):
            await line.send_eof(timeout=0.05)
        with pytest.raises(landline.RequestTimeout):
            await line.request("anything", timeout=0.05)
        assert not line.is_closed
        line.abort(landline.Code.NORMAL)
        with pytest.raises(landline.LineClosed):
            await line.send("later", timeout=5)
        await line.close()
