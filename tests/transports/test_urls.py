"""URLs of servers; each invalid one is explained in one sentence."""

import re

import pytest

import landline
from landline import Endpoint, parse_url
from landline.transports.base import load_transport
from landline.transports.urls import SCHEMES, Scheme


@pytest.mark.parametrize(
    ("url", "endpoint", "text"),
    [
        ("tcp://127.0.0.1:80", Endpoint("tcp", "127.0.0.1", 80), "tcp://127.0.0.1:80"),
        ("tcp://example.org", Endpoint("tcp", "example.org", 5463), "tcp://example.org:5463"),
        ("tcp://example.org/", Endpoint("tcp", "example.org", 5463), "tcp://example.org:5463"),
        ("TLS://Example.ORG:1", Endpoint("tls", "example.org", 1), "tls://example.org:1"),
        ("tcp://[::1]:0", Endpoint("tcp", "::1", 0), "tcp://[::1]:0"),
        ("quic://example.org", Endpoint("quic", "example.org", 5463), "quic://example.org:5463"),
        ("tls://[fe80::1]", Endpoint("tls", "fe80::1", 5463), "tls://[fe80::1]:5463"),
        ("ws://example.org", Endpoint("ws", "example.org", 80, "/"), "ws://example.org:80/"),
        ("wss://Example.org/A/b", Endpoint("wss", "example.org", 443, "/A/b"), "wss://example.org:443/A/b"),
        ("ws://[::1]:8080/", Endpoint("ws", "::1", 8080, "/"), "ws://[::1]:8080/"),
        ("unix:///run/a b.sock", Endpoint("unix", path="/run/a b.sock"), "unix:///run/a b.sock"),
        ("unix:///" + "x" * 106, Endpoint("unix", path="/" + "x" * 106), "unix:///" + "x" * 106),
    ],
)
def test_urls_become_endpoints_and_back(url, endpoint, text):
    assert parse_url(url) == endpoint
    assert str(endpoint) == text
    assert parse_url(text) == endpoint


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "does not begin with one of quic://, tcp://, tls://, udp://, unix://"),
        ("127.0.0.1:80", "does not begin with one of"),
        ("localhost:5463", "does not begin with one of"),
        ("http://example.org", "does not begin with one of"),
        ("tcp:/example.org", "the host is missing; write for example tcp://127.0.0.1:5463"),
        ("tcp://", "the host is missing"),
        ("tls://:5463", "the host is missing; write for example tls://127.0.0.1:5463"),
        ("tcp://host/path", "tcp:// takes no path"),
        ("tcp://host:port", "invalid URL"),
        ("tcp://host:65536", "invalid URL"),
        ("tcp://host:-1", "invalid URL"),
        ("tcp://[::1", "invalid URL"),
        ("tcp://user@host", "remove the user, the ?query or the #fragment"),
        ("tcp://user:secret@host", "remove the user, the ?query or the #fragment"),
        ("tcp://host?a=b", "remove the user, the ?query or the #fragment"),
        ("tcp://host#top", "remove the user, the ?query or the #fragment"),
        ("ws://host/line?a=b", "remove the user, the ?query or the #fragment"),
        ("ws:///line", "the host is missing"),
        ("unix:///run/a?b", "remove the user, the ?query or the #fragment"),
        ("unix://relative.sock", "the path is not absolute; write for example unix:///run/landline.sock"),
        ("unix://", "the path is not absolute"),
        ("tcp://a host", "it contains a space"),
        ("tcp://host\n", "it contains a control character or bytes that are not UTF-8"),
        ("tcp://h\udcffst", "it contains a control character or bytes that are not UTF-8"),
        ("unix:///run/a\udcff", "it contains a control character or bytes that are not UTF-8"),
        ("unix:///run/a\0b", "it contains a control character or bytes that are not UTF-8"),
        ("unix:///run/a\nb", "it contains a control character or bytes that are not UTF-8"),
        ("unix:///" + "x" * 107, "the path is longer than 107 bytes, the limit of a unix socket"),
        ("unix:///" + "é" * 54, "longer than 107 bytes"),
    ],
)
def test_invalid_urls_are_explained_in_one_sentence(url, text):
    with pytest.raises(landline.ConfigurationError) as caught:
        parse_url(url)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    for use in (landline.connect, landline.Server().listen):
        with pytest.raises(ValueError, match=re.escape(text)):
            use(url)


def test_a_scheme_whose_extra_is_not_installed(monkeypatch):
    monkeypatch.setitem(
        SCHEMES,
        "far",
        Scheme("landline.transports.missing", extra="far", has_path=True),
    )
    endpoint = parse_url("far://host/line")
    assert endpoint == Endpoint("far", "host", 5463, "/line")
    assert str(endpoint) == "far://host:5463/line"
    assert str(parse_url("far://host")) == "far://host:5463/"
    with pytest.raises(landline.MissingExtra, match=r"far:// needs .*: pip install 'landline\[far\]'"):
        load_transport(endpoint)


def test_a_module_that_is_broken_is_not_hidden(monkeypatch):
    monkeypatch.setitem(SCHEMES, "broken", Scheme("landline.transports.missing"))
    with pytest.raises(ModuleNotFoundError):
        load_transport(Endpoint("broken", "host"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("tcp://h", False),
        ("tls://h", True),
        ("quic://h", True),
        ("unix:///s", False),
        ("ws://h", False),
        ("wss://h", True),
    ],
)
def test_whether_an_endpoint_is_encrypted(url, expected):
    assert parse_url(url).is_encrypted is expected
