"""The errors of a client when TLS fails."""

import datetime
import ssl

import pytest
import trustme

import landline

ONCE = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)


async def reason_of_failure(url: str, context: ssl.SSLContext) -> str:
    options = landline.TransportOptions(tls=context)
    with pytest.raises(landline.GaveUp) as caught:
        async with landline.connect(url, backoff=ONCE, options=options):
            pytest.fail("connected")
    assert caught.value.last is not None
    assert isinstance(caught.value.last.__cause__, ssl.SSLError)
    with pytest.raises(landline.ConnectFailed) as called:
        await landline.call(url, "add", options=options, timeout=10)
    text = str(called.value)
    assert str(caught.value) == f"gave up after 1 attempt: {text}"
    return text.removeprefix(f"{landline.parse_url(url)}: ")


@pytest.fixture(params=["tls", "wss"])
async def listening(request):
    """A function that listens with a certificate, and its authority."""
    authority = trustme.CA()

    def listen(**certificate):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", **certificate).configure_cert(context)
        options = landline.TransportOptions(tls=context)
        return landline.Server().listen(f"{request.param}://localhost:0", options=options)

    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return listen, trusting


async def test_an_unknown_authority(listening):
    listen, _ = listening
    async with listen() as endpoint:
        text = await reason_of_failure(str(endpoint), ssl.create_default_context())
    assert text.startswith("the server's certificate is not accepted: ")
    assert text.endswith("; if you trust it, pass the certificate of its authority")
    assert "_ssl.c" not in text


async def test_a_certificate_that_has_expired(listening):
    listen, trusting = listening
    async with listen(not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)) as endpoint:
        text = await reason_of_failure(str(endpoint), trusting)
    assert text == "the server's certificate is not accepted: certificate has expired"


async def test_a_certificate_for_another_name(listening):
    listen, trusting = listening
    async with listen() as endpoint:
        text = await reason_of_failure(str(endpoint).replace("localhost", "127.0.0.1"), trusting)
    assert text.startswith("the server's certificate is not accepted: IP address mismatch")


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_a_server_without_tls(scheme):
    async with landline.Server().listen("tcp://127.0.0.1:0") as endpoint:
        text = await reason_of_failure(f"{scheme}://127.0.0.1:{endpoint.port}", ssl.create_default_context())
    assert text == "the server does not speak TLS; check the scheme of the URL"
