"""``ping`` against real servers."""

import asyncio
import json
import re
import signal
import socket

import pytest
import trustme

import landline

TOKEN = "a secret of sixteen bytes or more"
REFUSED = "no server listens at this address (connection refused); check the address, and start the server."
MS = r"\d+\.\d\d ms"


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return str(path)


async def test_ping_measures_a_line(cli):
    server = landline.Server(name="the lab")
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        ended = await cli.run("ping", str(endpoint), "--interval", "0s")
    assert ended.status == 0, ended.err
    greeting, *trips, summary = ended.out.splitlines()
    assert re.fullmatch(rf"'the lab' at {endpoint}: connected in {MS}", greeting)
    assert [re.sub(MS, "MS", trip) for trip in trips] == ["1: MS", "2: MS", "3: MS"]
    assert re.fullmatch(rf"3 of 3 answered; minimum {MS}, median {MS}, maximum {MS}", summary)


@pytest.mark.parametrize("scheme", ["tcp", "unix", "udp"])
async def test_json_output(cli, directory, token_file, scheme):
    server = landline.Server(auth=landline.SharedToken(TOKEN), name="the lab")
    url = f"unix://{directory}/line" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    async with server.listen(url) as endpoint:
        ended = await cli.run(
            "ping",
            str(endpoint),
            *("--json", "--count", "2", "--interval", "0s", "--timeout", "9s", "--token-file", token_file),
        )
    assert ended.status == 0, ended.err
    document = json.loads(ended.out)
    assert document["url"] == str(endpoint)
    assert document["server"] == ("" if scheme == "udp" else "the lab")
    assert document["handshake_s"] > 0
    assert len(document["round_trips_s"]) == 2
    assert all(trip_s > 0 for trip_s in document["round_trips_s"])
    assert document["problem"] == ""


async def test_tls_needs_an_authority_to_trust(cli, tmp_path):
    import ssl

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = landline.TransportOptions(tls=context)
    async with landline.Server().listen("tls://127.0.0.1:0", options=options) as endpoint:
        ended = await cli.run("ping", str(endpoint), "--count", "1", "--ca", str(tmp_path / "ca.pem"))
        assert (ended.status, ended.err) == (0, "")
        ended = await cli.run("ping", str(endpoint), "--count", "1")
    assert ended.status == 3
    assert "the server's certificate is not accepted: " in ended.err


async def test_the_authority_applies_to_quic_too(cli, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = landline.TransportOptions(certificate_file=tmp_path / "server.pem")
    async with landline.Server().listen("quic://127.0.0.1:0", options=options) as endpoint:
        ended = await cli.run("ping", str(endpoint), "--count", "1", "--ca", str(tmp_path / "ca.pem"))
        assert (ended.status, ended.err) == (0, "")
        ended = await cli.run("ping", str(endpoint), "--count", "1")
    assert ended.status == 3
    # One sentence, and nothing of what the library below it logs.
    assert ended.err.count("\n") == 1
    assert ended.err.startswith(f"{endpoint}: the QUIC connection failed: ")


async def test_a_file_without_a_certificate_is_named(cli, token_file):
    ended = await cli.run("ping", "tls://127.0.0.1:1", "--ca", token_file)
    assert (ended.status, ended.err) == (
        2,
        f"--ca: '{token_file}' cannot be used: it contains no certificate in PEM format.\n",
    )


async def test_ping_accepts_an_announced_name(cli):
    ended = await cli.run("ping", "mdns://no-server-of-that-name")
    assert ended.status == 3
    assert ended.err.startswith("mdns://no-server-of-that-name: ")


async def test_a_refusal_shows_the_name_of_the_server(cli):
    server = landline.Server(auth=landline.SharedToken(TOKEN), name="the \x1b[2Jlab")
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        ended = await cli.run("ping", str(endpoint))
    assert ended.status == 1
    assert ended.out == ""
    assert ended.err == (
        f"'the \N{REPLACEMENT CHARACTER}[2Jlab' at {endpoint}: the server needs a token; give the right one with "
        "--token-file or LANDLINE_TOKEN.\n"
    )


async def test_a_udp_server_does_not_answer_another_token(cli):
    server = landline.Server(auth=landline.SharedToken(TOKEN))
    async with server.listen("udp://127.0.0.1:0") as endpoint:
        ended = await cli.run("ping", str(endpoint), "--timeout", "1s")
        assert ended.status == 3
        assert ended.err == f"{endpoint}: no landline server answered within 1 s.\n"
        ended = await cli.run("ping", str(endpoint), "--count", "1", LANDLINE_TOKEN=TOKEN)
        assert ended.status == 0
        assert ended.out.startswith(f"A server at {endpoint}: the first answer took ")


async def test_a_closed_port_and_a_silent_server(cli):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{sock.getsockname()[1]}"
        ended = await cli.run("ping", url)
        assert (ended.status, ended.out, ended.err) == (3, "", f"{url}: {REFUSED}\n")
        ended = await cli.run("ping", url, "--json")
        assert ended.status == 3
        assert json.loads(ended.out)["problem"] == f"{url}: {REFUSED}"
        sock.listen()
        ended = await cli.run("ping", url, "--timeout", "1s")
        assert (ended.status, ended.err) == (3, f"{url}: no answer within 1 s.\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["http://host"], "does not begin with one of"),
        (["tcp://host", "--count", "0"], "--count takes a whole number from 1 to 1000000, not '0'."),
        (["tcp://host", "--interval", "1"], "--interval takes a duration"),
        (["tcp://host", "--timeout", "0s"], "--timeout takes at least 1s"),
        (
            ["tls://host", "--ca", "/nowhere/ca.pem"],
            "--ca: '/nowhere/ca.pem' cannot be used: no such file or directory.",
        ),
        (
            ["tcp://host", "--ca", "/nowhere"],
            "--ca does not apply to tcp://host:5463: it is for quic://, tls:// and wss://.",
        ),
        (
            ["udp://host", "--ca", "/nowhere"],
            "--ca does not apply to udp://host:5463: it is for quic://, tls:// and wss://.",
        ),
        (
            ["mdns+tcp://host", "--ca", "/nowhere"],
            "--ca does not apply to mdns+tcp://host: it is for quic://, tls:// and wss://.",
        ),
        (["tcp://host", "--token-file", "/nowhere"], "Cannot read the token file /nowhere"),
    ],
)
async def test_wrong_use_of_ping(cli, arguments, text):
    ended = await cli.run("ping", *arguments)
    assert ended.status == 2
    assert text in ended.err
    assert ended.out == ""


async def test_a_short_token_is_refused(cli):
    ended = await cli.run("ping", "tcp://127.0.0.1", LANDLINE_TOKEN="short")
    assert ended.status == 2
    assert (
        "The token in LANDLINE_TOKEN is too short: a token has at least 16 characters, and this one has 5"
        in ended.err
    )


async def test_ping_closes_its_line_on_sigterm(cli):
    ended = asyncio.get_running_loop().create_future()
    server = landline.Server()

    @server.on_state
    def changed(line, change):
        if change.state is not landline.LineState.ONLINE and not ended.done():
            ended.set_result(change.cause)

    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        process = await cli.start("ping", str(endpoint), "--count", "2", "--interval", "10m")
        while b"1: " not in await process.stdout.readline():
            pass
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
        assert (process.returncode, err) == (143, b"")
        assert await ended is landline.DisconnectCause.CLOSED_BY_PEER
