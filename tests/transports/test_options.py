"""Options of transports: one set for all encrypted schemes, and no option is ignored silently."""

import ssl
from types import SimpleNamespace

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

import landline

ONCE = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)
ENCRYPTED = ["tls", "wss", "quic"]
CONTEXT = ssl.create_default_context()


def make_options(**options):
    return landline.TransportOptions(**options)


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """Files of certificates, good and bad."""
    folder = tmp_path_factory.mktemp("pems")
    authority, other = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "stranger.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(folder / "certificate.pem", append=True)
    other.issue_cert("127.0.0.1").private_key_pem.write_to_path(folder / "other-key.pem")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    (folder / "locked.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    (folder / "text.pem").write_text("nothing of the kind")
    (folder / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    return SimpleNamespace(**{path.stem.replace("-", "_"): path for path in folder.iterdir()}, folder=folder)


@pytest.mark.usefixtures("datagrams_end")
@pytest.mark.parametrize("scheme", ENCRYPTED)
async def test_the_same_files_serve_every_encrypted_scheme(scheme, pems, quick, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = landline.Server()
    server.on("double")(lambda line, number: 2 * number)
    for there in (
        make_options(certificate_file=pems.certificate, private_key_file=str(pems.key)),
        make_options(certificate_file=pems.both),
    ):
        server = landline.Server()
        server.on("double")(lambda line, number: 2 * number)
        here = make_options(ca_file=pems.ca)
        async with server.listen(f"{scheme}://127.0.0.1:0", options=there) as endpoint:
            async with landline.connect(str(endpoint), backoff=quick, options=here) as line:
                assert await line.request("double", 21) == 42
            assert await landline.call(str(endpoint), "double", 4, options=here) == 8
            # The file names the only ones to trust.
            with pytest.raises(landline.GaveUp, match=r"certificate"):
                async with landline.connect(
                    str(endpoint), backoff=ONCE, options=make_options(ca_file=pems.stranger)
                ):
                    pytest.fail("trusted a server nobody it knows vouches for")


@pytest.mark.parametrize(
    ("urls", "options", "text"),
    [
        (
            "tcp://h",
            {"ca_file": "x"},
            r"TransportOptions(ca_file=) does not apply to tcp://h:5463: it is for quic://, tls",
        ),
        (
            "unix:///s",
            {"ca_file": "x"},
            "TransportOptions(ca_file=) does not apply to unix:///s: it is for quic://",
        ),
        (
            "ws://h",
            {"tls": CONTEXT},
            "TransportOptions(tls=) does not apply to ws://h:80/: it is for tls:// and wss://",
        ),
        (
            "quic://h",
            {"tls": CONTEXT},
            "QUIC cannot use an ssl.SSLContext: pass TransportOptions(ca_file=...)",
        ),
        ("tcp://h", {"tls": CONTEXT}, "TransportOptions(tls=) does not apply to tcp://h:5463"),
        ("tcp://h", {"server_name": "x"}, "TransportOptions(server_name=) does not apply to tcp://h:5463"),
        (
            "tls://h",
            {"headers": {"a": "b"}},
            "TransportOptions(headers=) does not apply to tls://h:5463: it is for ws",
        ),
        ("tls://h", {"proxy": "http://p"}, "TransportOptions(proxy=) does not apply to tls://h:5463"),
        (
            "quic://h",
            {"user_timeout_s": 5},
            "TransportOptions(user_timeout_s=) does not apply to quic://h:5463",
        ),
        (
            "tls://h",
            {"certificate_file": "x"},
            "TransportOptions(certificate_file=) is for servers, and this is a client",
        ),
        ("wss://h", {"origins": ("*",)}, "TransportOptions(origins=) is for servers"),
        ("mdns+tcp://lab", {"ca_file": "x"}, "TransportOptions(ca_file=) does not apply to mdns+tcp://lab"),
        (["tcp://h", "unix:///s"], {"ca_file": "x"}, "does not apply to tcp://h:5463, unix:///s"),
        (
            "tls://h",
            {"tls": CONTEXT, "ca_file": "x"},
            "TransportOptions(ca_file=) has no effect together with tls=",
        ),
        ("tls://h", {"tls": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "(tls=) is a context for servers"),
        (
            "tls://h",
            {"ca_file": "/no/such.pem"},
            "(ca_file=): '/no/such.pem' cannot be used: no such file or directory",
        ),
        ("wss://h", {"ca_file": "/"}, "(ca_file=): '/' cannot be used: is a directory"),
    ],
)
async def test_invalid_options_of_a_client_are_refused_at_once(urls, options, text):
    with pytest.raises(landline.ConfigurationError) as caught:
        landline.connect(urls, options=make_options(**options))
    assert text in str(caught.value)
    if "mdns" not in str(urls):
        with pytest.raises(landline.ConfigurationError) as called:
            await landline.call(urls, "add", options=make_options(**options))
        assert str(called.value) == str(caught.value)


@pytest.mark.parametrize("scheme", ENCRYPTED)
@pytest.mark.parametrize(
    ("name", "text"), [("text", "it contains no certificate in PEM format"), ("bad", "cannot be used: ")]
)
def test_a_file_without_an_authority_raises_at_once(scheme, name, text, pems):
    path = getattr(pems, name)
    with pytest.raises(landline.ConfigurationError, match=text) as caught:
        landline.connect(f"{scheme}://host", options=make_options(ca_file=path))
    assert f"{str(path)!r} cannot be used" in str(caught.value)
    assert "_ssl.c" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        (
            "tls://127.0.0.1:0",
            {},
            "tls://127.0.0.1:0 needs a certificate: pass TransportOptions(certificate_file=...,",
        ),
        (
            "tcp://127.0.0.1:0",
            {"certificate_file": "both"},
            "TransportOptions(certificate_file=) does not apply to tcp",
        ),
        (
            "tcp://127.0.0.1:0",
            {"tls": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)},
            "(tls=) does not apply to tcp://",
        ),
        (
            "quic://127.0.0.1:0",
            {"tls": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)},
            "pass TransportOptions(certificate_file",
        ),
        ("tls://127.0.0.1:0", {"tls": CONTEXT}, "(tls=) is a context for clients"),
        (
            "tls://127.0.0.1:0",
            {"ca_file": "ca"},
            "TransportOptions(ca_file=) is for clients, and this is a server; a",
        ),
        ("ws://127.0.0.1:0", {"headers": {"a": "b"}}, "TransportOptions(headers=) is for clients"),
        (
            "tls://127.0.0.1:0",
            {"private_key_file": "key"},
            "(private_key_file=) needs certificate_file= as well",
        ),
        (
            "tcp://127.0.0.1:0",
            {"origins": ("*",)},
            "TransportOptions(origins=) does not apply to tcp://127.0.0.1:0",
        ),
        (
            "wss://127.0.0.1:0",
            {"certificate_file": "certificate"},
            "it contains no private key; pass private_key_file= as well",
        ),
        ("tls://127.0.0.1:0", {"certificate_file": "text"}, "it contains no certificate in PEM format"),
        (
            "tls://127.0.0.1:0",
            {"certificate_file": "certificate", "private_key_file": "other_key"},
            "cannot be used: the private key belongs to another certificate",
        ),
        (
            "tls://127.0.0.1:0",
            {"certificate_file": "certificate", "private_key_file": "locked"},
            "cannot be used: the private key has a password; store it without one",
        ),
        (
            "quic://127.0.0.1:0",
            {"certificate_file": "certificate", "private_key_file": "ca"},
            "it contains no private key in PEM format",
        ),
    ],
)
def test_invalid_options_of_a_server_are_refused_at_once(url, options, text, pems):
    given = {
        name: getattr(pems, value) if isinstance(value, str) else value for name, value in options.items()
    }
    with pytest.raises(landline.ConfigurationError) as caught:
        landline.Server().listen(url, options=make_options(**given))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_for_several_urls_must_apply_to_one_of_them(pems):
    landline.connect(["tcp://h", "tls://h"], options=make_options(ca_file=pems.ca))
    landline.connect(["tls://h", "quic://h"], options=make_options(tls=CONTEXT, ca_file=pems.ca))
    landline.connect("mdns://lab", options=make_options(tls=CONTEXT, ca_file=pems.ca, server_name="lab"))
    # proxy=False is allowed for schemes without proxies.
    landline.connect("tcp://h", options=make_options(proxy=False))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"origins": "https://example.org"}, "(origins=) must be a tuple of strings"),
        ({"origins": (5,)}, "(origins=) must contain only strings"),
        ({"headers": [("a", "b")]}, "(headers=) must be a dict of strings, not list"),
        ({"headers": {"a": 5}}, "(headers=) must contain only strings"),
        ({"tls": True}, "(tls=) must be an ssl.SSLContext, not bool"),
        ({"ca_file": b"pem"}, "(ca_file=) must be the path of a file, not bytes"),
        ({"server_name": None}, "(server_name=) must be a string"),
        ({"user_timeout_s": "5"}, "(user_timeout_s=) must be a number of seconds"),
        ({"user_timeout_s": True}, "(user_timeout_s=) must be a number of seconds"),
        ({"user_timeout_s": 0}, "(user_timeout_s=0): must be greater than 0"),
        ({"proxy": None}, "(proxy=) must be the URL of a proxy, True or False"),
    ],
)
def test_options_of_the_wrong_type_are_refused_where_they_are_made(options, text):
    with pytest.raises(landline.ConfigurationError) as caught:
        landline.TransportOptions(**options)
    assert text in str(caught.value)


async def test_a_file_that_is_being_replaced_fails_one_attempt_but_not_the_line(
    pems, tmp_path, quick, states, until
):
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(pems.ca.read_bytes())
    seen = states()
    async with (
        landline.Server().listen(
            "tls://127.0.0.1:0", options=make_options(certificate_file=pems.both)
        ) as endpoint,
        landline.connect(
            str(endpoint), backoff=quick, options=make_options(ca_file=ca_file), on_state=seen
        ) as line,
    ):
        ca_file.unlink()
        line.break_link()
        await until(lambda: any("no such file" in change.detail for change in seen.changes))
        ca_file.write_bytes(pems.ca.read_bytes())
        await until(lambda: line.epoch == 2)
