"""What is announced, what of it is believed, and where a client goes by it: pure."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import landline
from landline.discovery.records import (
    DATAGRAM_TYPE,
    STREAM_TYPE,
    BadAnnouncement,
    MdnsTarget,
    check_announceable,
    check_name,
    instance_label,
    is_reachable,
    parse_endpoint,
    parse_record,
    select_server,
    service_type,
    txt_record,
)
from landline.transports.urls import SCHEMES, Endpoint, Scheme


@pytest.fixture(autouse=True)
def web_scheme(monkeypatch):
    """A scheme with a path, whatever is installed."""
    monkeypatch.setitem(SCHEMES, "web", Scheme("none", has_path=True, is_encrypted=True))


def hear(
    name="lab", scheme="tls", host="box.local.", addresses=("192.0.2.7",), port=5463, path="", **changes
):
    record = txt_record(Endpoint(scheme, "0.0.0.0", port, path))
    told = {
        "label": instance_label(name, scheme),
        "type_": service_type(scheme),
        "host": host,
        "port": port,
        "addresses": addresses,
        "txt": {key.encode(): value.encode() for key, value in record.items()},
    }
    return parse_record(**(told | changes))


def txt(**changes):
    return {b"v": b"1", b"scheme": b"tls"} | {key.encode(): value for key, value in changes.items()}


# URLs.


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("mdns://lab", MdnsTarget("lab")),
        ("mdns://", MdnsTarget()),
        ("mdns+tcp://Lab", MdnsTarget("lab", "tcp")),
        ("mdns+tls://", MdnsTarget("", "tls")),
        ("tcp://lab", Endpoint("tcp", "lab", 5463)),
    ],
)
def test_urls_become_endpoints_and_back(url, endpoint):
    assert parse_endpoint(url) == endpoint
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mdns+unix://lab", "does not begin with one of mdns://, mdns\\+"),
        ("mdns+nonsense://lab", "does not begin with one of mdns://, mdns\\+"),
        ("mdns+://lab", "does not begin with one of mdns://, mdns\\+"),
        ("mdns://two words", "'two words' cannot be announced as a name"),
        ("mdns://lab:5463", "cannot be announced as a name"),
        ("mdns://lab/path", "cannot be announced as a name"),
        ("mdns://-lab", "a letter or a digit at both ends"),
        ("mdns://" + "a" * (48 + 1), f"up to {48} letters"),
        ("mdns://l\nab", r"'l\\nab' cannot be announced"),
        ("mdns", "does not begin with"),
    ],
)
def test_invalid_urls_are_named(url, text):
    with pytest.raises(landline.ConfigurationError, match=text):
        landline.connect(url)


def test_only_named_schemes_may_be_unencrypted():
    assert MdnsTarget("lab").is_encrypted
    assert MdnsTarget("lab", "tls").is_encrypted
    assert not MdnsTarget("lab", "tcp").is_encrypted


# Announcing.


@pytest.mark.parametrize("url", ["tcp://127.0.0.1", "tls://[::1]", "tcp://localhost", "unix:///run/line"])
def test_an_unreachable_endpoint_is_not_announced(url):
    with pytest.raises(
        landline.ConfigurationError, match="only this machine can reach it; listen for example on"
    ):
        landline.Server().listen(url, announce="lab")


def test_a_name_that_cannot_be_announced_is_refused_before_anything_is_opened():
    with pytest.raises(landline.ConfigurationError, match="'a b' cannot be announced as a name"):
        landline.Server().listen("tcp://0.0.0.0:0", announce="a b")


def test_a_path_too_long_for_a_record_is_refused():
    with pytest.raises(landline.ConfigurationError, match="a path of more than 200 characters"):
        check_announceable(Endpoint("web", "0.0.0.0", 1, "/" + "p" * 200), "lab")


def test_types_of_services():
    assert service_type("tls") == service_type("wss") == STREAM_TYPE
    assert service_type("quic") == DATAGRAM_TYPE


# Hearing.


def test_the_announcement_of_a_server_is_parsed():
    assert hear() == landline.DiscoveredServer("lab", "box.local.", (Endpoint("tls", "192.0.2.7", 5463),))
    assert hear(scheme="web", path="/line").endpoints == (Endpoint("web", "192.0.2.7", 5463, "/line"),)
    assert hear(name="LAB").name == "lab"
    assert hear().url == "mdns://lab"
    assert hear(scheme="tcp").url == "mdns+tcp://lab"
    assert (hear().scheme, hear().is_encrypted, hear(scheme="tcp").is_encrypted) == ("tls", True, False)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"label": "lab"}, "cannot be announced as a name"),
        ({"label": "\x1b[31mlab tls"}, "cannot be announced as a name"),
        ({"label": "a" * 200 + " tls"}, "cannot be announced as a name"),
        ({"label": "lab tcp"}, "its scheme is 'tls', in a service labelled 'lab tcp'"),
        ({"type_": DATAGRAM_TYPE}, "its scheme is"),
        ({"txt": {}}, "protocol version is ''"),
        ({"txt": txt(v=None)}, "protocol version is ''"),
        ({"txt": txt(v=b"2")}, "protocol version is '2', not 1"),
        ({"txt": txt(v=b"1" * 250)}, "protocol version is '11111111111111111111'"),
        ({"txt": txt(scheme=b"http")}, "its scheme is 'http'"),
        ({"txt": txt(scheme=b"unix"), "label": "lab unix"}, "its scheme is 'unix'"),
        ({"txt": txt(scheme=b"\xff")}, "its scheme is ''"),
        ({"txt": txt(path=b"/etc")}, "it has a path, which tls:// cannot have"),
        ({"port": None}, "its port is None"),
        ({"port": 0}, "its port is 0"),
        ({"port": 65_536}, "its port is 65536"),
        ({"addresses": ()}, "no address that others can reach"),
        ({"addresses": ("127.0.0.1", "::1", "0.0.0.0", "224.0.0.1")}, "no address that others can reach"),
    ],
)
def test_invalid_records_are_rejected(changes, text):
    with pytest.raises(BadAnnouncement, match=text):
        hear(**changes)


@pytest.mark.parametrize("path", [b"line", b"/a b", b"/\r\nHost: evil", b"/?q", b"/#f", b"/" + b"p" * 300])
def test_paths_that_are_none_are_not_believed(path):
    with pytest.raises(BadAnnouncement, match="its path is"):
        hear(scheme="web", txt=txt(scheme=b"web", path=path))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", True),
        ("10.0.0.1", True),
        ("169.254.1.1", True),
        ("fd00::2", True),
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("224.0.0.251", False),
        ("::1", False),
        ("::", False),
        ("ff02::fb", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1%eth0", False),
        ("::ffff:127.0.0.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_addresses_that_are_believed(address, expected):
    assert is_reachable(address) is expected


def test_no_more_addresses_than_anybody_needs():
    many = [f"192.0.2.{number}" for number in range(1, 200)]
    assert len(hear(addresses=[*many, *many]).endpoints) == 8


def test_the_name_of_a_machine_is_fit_to_be_shown():
    assert hear(host="box\x1b[31m\n" + "x" * 999).host.startswith("box??31m?xxx")
    assert len(hear(host="x" * 999).host) == 255


@given(
    st.text(max_size=80),
    st.sampled_from([STREAM_TYPE, DATAGRAM_TYPE, ""]),
    st.text(max_size=300),
    st.one_of(st.none(), st.integers(-1, 70_000)),
    st.lists(
        st.one_of(st.text(max_size=20), st.sampled_from(["10.0.0.1", "fd00::1", "127.0.0.1"])), max_size=12
    ),
    st.dictionaries(
        st.sampled_from([b"v", b"scheme", b"path", b"x"]),
        st.one_of(st.none(), st.binary(max_size=260), st.sampled_from([b"1", b"tls", b"tcp", b"/line"])),
    ),
)
@settings(deadline=None, max_examples=300, derandomize=True)
def test_whatever_is_heard_is_checked_or_refused(label, type_, host, port, addresses, txt):
    refused: list[str] = []
    for each in (label, "lab tls", "lab tcp"):
        try:
            one = parse_record(label=each, type_=type_, host=host, port=port, addresses=addresses, txt=txt)
        except BadAnnouncement as error:
            refused.append(str(error))
            continue
        assert check_name(one.name) == one.name
        assert one.host.isascii()
        assert 1 <= len(one.endpoints) <= 8
        assert all(is_reachable(endpoint.host) and 0 < endpoint.port < 65_536 for endpoint in one.endpoints)
        assert parse_endpoint(one.url).is_encrypted is one.is_encrypted
    assert all(sentence.isprintable() for sentence in refused)


# Choosing.


def test_a_name_is_its_endpoints_tls_first():
    web = hear(scheme="web", path="/line", addresses=("192.0.2.7", "fd00::7"))
    name, endpoints = select_server(MdnsTarget("lab"), [web, hear(), hear(name="den", host="other.local.")])
    assert name == "lab"
    assert [str(endpoint) for endpoint in endpoints] == [
        "tls://192.0.2.7:5463",
        "web://192.0.2.7:5463/line",
        "web://[fd00::7]:5463/line",
    ]


def test_the_only_one_needs_no_name():
    assert select_server(MdnsTarget(), [hear()]) == ("lab", [Endpoint("tls", "192.0.2.7", 5463)])


def test_an_unencrypted_endpoint_is_used_only_on_request():
    both = [hear(scheme="tcp", port=1), hear()]
    assert [endpoint.scheme for endpoint in select_server(MdnsTarget("lab"), both)[1]] == ["tls"]
    assert [endpoint.scheme for endpoint in select_server(MdnsTarget("lab", "tcp"), both)[1]] == ["tcp"]
    with pytest.raises(landline.ConnectFailed) as caught:
        select_server(MdnsTarget("lab"), both[:1])
    assert str(caught.value) == (
        "lab is announced only at tcp://192.0.2.7:1, which is not encrypted; mdns+tcp://lab would use it, on a network "
        "you trust"
    )


@pytest.mark.parametrize(
    ("wanted", "announcements", "text"),
    [
        ("mdns://lab", [], "no server is announced as 'lab'"),
        ("mdns://lab", [{"name": "den"}], "no server is announced as 'lab'"),
        ("mdns://", [], "no server is announced on this network"),
        (
            "mdns://",
            [{}, {"name": "den"}],
            "several servers are announced, choose one: mdns://den, mdns://lab",
        ),
        ("mdns+tcp://", [{}], "the server is announced, but only at tls://192.0.2.7:5463"),
        (
            "mdns://lab",
            [{}, {"host": "b.local."}],
            "several machines are announced as 'lab': b.local., box.local.",
        ),
        (
            "mdns://",
            [{"name": f"lab{number}"} for number in range(9)],
            "mdns://lab0, mdns://lab1, mdns://lab2, mdns://lab3, mdns://lab4 and 4 more",
        ),
    ],
)
def test_when_it_is_not_one_server_a_sentence_says_so(wanted, announcements, text):
    with pytest.raises(landline.ConnectFailed, match=text):
        select_server(parse_endpoint(wanted), [hear(**each) for each in announcements])
