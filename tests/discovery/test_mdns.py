"""Announcing and finding, by real multicast on the network of this machine. Names are drawn: others may test here."""

import asyncio
import logging
import secrets
import ssl
import sys

import pytest
import trustme
from tests.cable import laid
from zeroconf import DNSOutgoing, DNSPointer, const
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

import landline
from landline.client.dialer import DialTimeouts
from landline.discovery.mdns import ANSWERS_MAX
from landline.discovery.records import STREAM_TYPE

ONCE = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)


@pytest.fixture(autouse=True)
def _multicast(multicast):
    """Without multicast there is nothing to test here."""


@pytest.fixture
def name():
    return f"test-{secrets.token_hex(6)}"


async def names(seconds=1.5):
    return [one.name for one in await landline.discover(seconds)]


async def discovered(name: str) -> landline.DiscoveredServer:
    """Return the server with that name; a busy machine may need more than one search to hear its announcement."""
    while True:
        for one in await landline.discover(1.5):
            if one.name == name:
                return one


async def test_a_server_is_announced_found_and_withdrawn(name, quick):
    server = landline.Server()
    async with server.listen("tcp://0.0.0.0:0", announce=name.upper()) as endpoint:
        one = await discovered(name)
        assert {found.port for found in one.endpoints} == {endpoint.port}
        assert one.url == f"mdns+tcp://{name}"
        connector = landline.connect(one.url, backoff=quick)
        async with connector as line:
            assert connector.endpoint in one.endpoints
            assert len(server.lines) == 1
            await line.ping()
    assert name not in await names()


async def test_a_server_that_closes_is_withdrawn_before_its_listener_is_left(name):
    server = landline.Server()
    async with server.listen("tcp://0.0.0.0:0", announce=name):
        await server.close()
        assert name not in await names()


async def test_the_address_is_looked_up_again_at_every_attempt(name, quick, until):
    """The server moves to another port, under the same name; the session goes on there."""
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0"):
        first = server.listen("tcp://0.0.0.0:0", announce=name)
        before = await first.__aenter__()
        connector = landline.connect(f"mdns+tcp://{name}", backoff=quick)
        async with connector as line:
            assert connector.endpoint.port == before.port
            await first.__aexit__(None, None, None)
            async with server.listen("tcp://0.0.0.0:0", announce=name) as after:
                assert after.port != before.port
                line.break_link()
                await until(lambda: line.epoch == 2)
                assert connector.endpoint.port == after.port
                await line.close()


async def test_without_an_answer_the_attempt_fails(name):
    with pytest.raises(landline.GaveUp, match=f"no server is announced as '{name}'"):
        async with landline.connect(f"mdns://{name}", backoff=ONCE, timeouts=DialTimeouts(search_s=1.0)):
            pytest.fail("connected to nobody")


async def test_an_unencrypted_announcement_is_not_used_by_default(name):
    server = landline.Server()
    async with server.listen("tcp://0.0.0.0:0", announce=name):
        with pytest.raises(landline.GaveUp, match=rf"not encrypted; mdns\+tcp://{name} would use it"):
            async with landline.connect(f"mdns://{name}", backoff=ONCE):
                pytest.fail("gave up encryption")
        assert not server.lines


async def test_a_certificate_must_be_valid_for_the_name_that_was_asked_for(name, quick, multicast):
    """A server that announces that name may have a certificate, but not for the name."""
    authority = trustme.CA()
    right, wrong = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(right)
    authority.issue_cert("another-server", multicast).configure_cert(wrong)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    options = landline.TransportOptions(tls=client)
    for context, is_welcome in ((right, True), (wrong, False)):
        server = landline.Server()
        there = landline.TransportOptions(tls=context)
        async with server.listen("tls://0.0.0.0:0", options=there, announce=name):
            if is_welcome:
                async with landline.connect(f"mdns://{name}", options=options, backoff=quick):
                    assert len(server.lines) == 1
                continue
            with pytest.raises(landline.GaveUp, match=r"(?i)certificate"):
                async with landline.connect(f"mdns://{name}", options=options, backoff=ONCE):
                    pytest.fail("trusted an impostor")
            async with landline.connect(
                f"mdns://{name}",
                options=landline.TransportOptions(tls=client, server_name="another-server"),
                backoff=quick,
            ):
                assert len(server.lines) == 1


@pytest.mark.usefixtures("datagrams_end")
async def test_one_name_stands_for_all_that_is_encrypted(name, quick, tmp_path):
    """The name is that in the certificates; the scheme in the URL chooses among them."""
    authority = trustme.CA()
    certificate = authority.issue_cert(name)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    there = landline.TransportOptions(
        certificate_file=tmp_path / "server.pem", private_key_file=tmp_path / "server.key"
    )
    here = landline.TransportOptions(ca_file=tmp_path / "ca.pem", proxy=False)
    server = landline.Server()
    async with (
        server.listen("tls://0.0.0.0:0", options=there, announce=name),
        server.listen("quic://0.0.0.0:0", options=there, announce=name),
        server.listen("wss://0.0.0.0:0/line", options=there, announce=name),
    ):
        found: dict[str, landline.DiscoveredServer] = {}
        # On a busy machine an answer may come after the time to look.
        while found.keys() != {"tls", "quic", "wss"}:
            found |= {one.scheme: one for one in await landline.discover(1.5) if one.name == name}
        assert {endpoint.path for endpoint in found["wss"].endpoints} == {"/line"}
        for url, schemes in (
            (f"mdns://{name}", {"tls", "quic", "wss"}),
            (f"mdns+quic://{name}", {"quic"}),
            (f"mdns+wss://{name}", {"wss"}),
        ):
            connector = landline.connect(url, options=here, backoff=quick)
            async with connector as line:
                await line.ping()
                assert connector.endpoint.scheme in schemes


async def test_a_taken_name_is_an_error(name):
    async with landline.Server().listen("tcp://0.0.0.0:0", announce=name):
        other = landline.Server()
        with pytest.raises(
            landline.AddressInUse, match=f"announced as '{name}' on this network; choose another"
        ):
            async with other.listen("tcp://0.0.0.0:0", announce=name):
                pytest.fail("two have one name")
        # What was opened is closed.
        assert other._host.listeners.opened == []


async def test_an_invalid_announcement_is_ignored(name, caplog):
    caplog.set_level(logging.WARNING, logger="landline")
    zeroconf = AsyncZeroconf()
    info = AsyncServiceInfo(
        STREAM_TYPE,
        f"{name} tcp.{STREAM_TYPE}",
        port=5463,
        properties={"v": "1", "scheme": "tcp"},
        server=f"{name}.local.",
        parsed_addresses=["127.0.0.1"],
    )
    try:
        await (await zeroconf.async_register_service(info))
        # A busy machine may need more than one search to hear the announcement.
        while not any("no address that others can reach" in record.message for record in caplog.records):
            assert name not in await names()
        with pytest.raises(landline.GaveUp, match="no server is announced as"):
            async with landline.connect(
                f"mdns+tcp://{name}", backoff=ONCE, timeouts=DialTimeouts(search_s=1.0)
            ):
                pytest.fail("connected to a server of another test")
    finally:
        await zeroconf.async_close()


async def test_a_flood_of_other_names_does_not_hide_the_one_that_is_looked_for(name, quick, until):
    """A peer announces more servers than are examined."""
    flood = DNSOutgoing(const._FLAGS_QR_RESPONSE | const._FLAGS_AA)
    for number in range(2 * ANSWERS_MAX):
        alias = f"{name}-{number} tcp.{STREAM_TYPE}"
        flood.add_answer_at_time(
            DNSPointer(STREAM_TYPE, const._TYPE_PTR, const._CLASS_IN, 120, alias), now=0.0
        )
    heard = set()
    zeroconf = AsyncZeroconf()
    browser = AsyncServiceBrowser(
        zeroconf.zeroconf, [STREAM_TYPE], handlers=[lambda *, name, **_: heard.add(name)]
    )

    async def lie():
        while True:
            zeroconf.zeroconf.async_send(flood)
            await asyncio.sleep(0.05)

    lying = asyncio.create_task(lie())
    try:
        await until(lambda: len(heard) >= 2 * ANSWERS_MAX)
        async with (
            landline.Server().listen("tcp://0.0.0.0:0", announce=name),
            landline.connect(f"mdns+tcp://{name}", backoff=quick) as line,
        ):
            assert await line.ping() > 0
    finally:
        lying.cancel()
        await browser.async_cancel()
        await zeroconf.async_close()


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 8, 50])
async def test_cancelling_a_search_ends_it_however_far_it_came(turns):
    before = asyncio.all_tasks()
    searching = asyncio.create_task(landline.discover(3600))
    for _ in range(turns):
        await asyncio.sleep(0)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    assert asyncio.all_tasks() == before


async def test_without_the_extra_the_error_says_what_to_install(monkeypatch, name):
    monkeypatch.delitem(sys.modules, "landline.discovery.mdns", raising=False)
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    server = landline.Server()
    for entering in (
        landline.connect(f"mdns://{name}"),
        server.listen("tcp://0.0.0.0:0", announce=name),
        landline.discover(1),
    ):
        with pytest.raises(landline.MissingExtra, match=r"pip install 'landline\[mdns\]'"):
            await entering
    assert server._host.listeners.opened == []


# On another machine.

SERVE = """
import sys
import landline

async def serve(name):
    server = landline.Server()
    async with server.listen("tcp://0.0.0.0:0", announce=name) as endpoint:
        print(endpoint.port, flush=True)
        await server.serve_forever()

landline.run(serve(sys.argv[1]))
"""


@pytest.fixture
def cable():
    yield from laid("mdns", "198.19")


async def test_a_server_on_another_machine_is_found_and_its_end_is_heard(cable, name, quick, until):
    process = await asyncio.create_subprocess_exec(
        *cable.inside, sys.executable, "-c", SERVE, name, stdout=asyncio.subprocess.PIPE
    )
    try:
        port = int(await process.stdout.readline())
        connector = landline.connect(f"mdns+tcp://{name}", backoff=quick)
        async with connector as line:
            assert str(connector.endpoint) == f"tcp://{cable.server}:{port}"
            await line.ping()
    finally:
        process.terminate()
        await process.communicate()
