"""Options of transports: which apply to which scheme, and the certificates in files, checked before anything starts."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Final

import msgspec

from landline.errors import ConfigurationError


class TransportOptions(msgspec.Struct, frozen=True):
    """What a transport may need beyond its address.

    An option that applies to none of the URLs it is given with, and a file that cannot be used, raise
    :class:`ConfigurationError` where they are given: in :func:`landline.connect`, :func:`landline.call` and
    :meth:`landline.Server.listen`.
    """

    tls: ssl.SSLContext | None = None
    """For ``tls://`` and ``wss://``: a context of your own, in place of the files. QUIC cannot use one."""
    server_name: str = ""
    """Encrypted schemes, clients: the name for which the server's certificate must be valid; by default the host of the
    URL."""
    certificate_file: str | os.PathLike[str] | None = None
    """Encrypted schemes, servers: the certificate, and those that vouch for it after it, as PEM."""
    private_key_file: str | os.PathLike[str] | None = None
    """Encrypted schemes, servers: the certificate's key as PEM, without a password. ``None`` where it stands in the
    file of the certificate."""
    ca_file: str | os.PathLike[str] | None = None
    """Encrypted schemes, clients: the only authorities that may vouch for servers, as PEM. ``None`` stands for those
    the system trusts (for QUIC, where there are none, those of certifi)."""
    user_timeout_s: float = 15.0
    """``tcp://``, ``tls://``, ``ws://`` and ``wss://``: sets ``TCP_USER_TIMEOUT`` (tcp(7)), how many seconds sent bytes
    may stay unacknowledged by the peer's kernel."""
    headers: dict[str, str] = {}
    """``ws://`` and ``wss://``, clients: sent with the request that opens the WebSocket, for gateways on the way."""
    origins: tuple[str, ...] = ()
    """``ws://`` and ``wss://``, servers: the web pages that may connect (``https://example.org``), beside those of the
    same host. Programs, which name no origin, always may; ``"*"`` lets any page in."""
    proxy: str | bool = True
    """``ws://`` and ``wss://``, clients: the HTTP proxy to go through (``http://user:password@host:port``); ``True`` is
    the one the environment names (``https_proxy``, ``no_proxy``, ...), ``False`` none."""

    def __post_init__(self) -> None:
        # msgspec checks types only of what it decodes. A text for origins would let in every part of itself.
        for name, (kinds, what) in _OPTION_TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (name == "user_timeout_s" and isinstance(value, bool)):
                raise ConfigurationError(
                    f"TransportOptions({name}=) takes {what}, not a value of the type {type(value).__name__}"
                )
        for name, value in (("origins", self.origins), ("headers", [*self.headers, *self.headers.values()])):
            if not all(isinstance(one, str) for one in value):
                raise ConfigurationError(f"TransportOptions({name}=) holds something that is no text")
        if not self.user_timeout_s > 0:
            raise ConfigurationError(
                f"TransportOptions(user_timeout_s={self.user_timeout_s:g}): more than 0 is possible"
            )


_PATH: Final = ((str, os.PathLike, NoneType), "the path of a file")
_OPTION_TYPES: Final = {
    "tls": ((ssl.SSLContext, NoneType), "an ssl.SSLContext"),
    "server_name": ((str,), "a name"),
    "certificate_file": _PATH,
    "private_key_file": _PATH,
    "ca_file": _PATH,
    "user_timeout_s": ((int, float), "seconds"),
    "headers": ((dict,), "a dict of text"),
    "origins": ((tuple,), 'a tuple of text, such as ("https://example.org",)'),
    "proxy": ((str, bool), "the URL of a proxy, True or False"),
}


_TLS: Final = frozenset({"tls", "wss"})
_ENCRYPTED: Final = frozenset({"tls", "wss", "quic"})
_WEB: Final = frozenset({"ws", "wss"})
_TCP: Final = frozenset({"tcp", "tls", "ws", "wss"})

_OF_CLIENTS: Final = {
    "tls": _TLS,
    "server_name": _ENCRYPTED,
    "ca_file": _ENCRYPTED,
    "user_timeout_s": _TCP,
    "headers": _WEB,
    "proxy": _WEB,
}
_OF_SERVERS: Final = {
    "tls": _TLS,
    "certificate_file": _ENCRYPTED,
    "private_key_file": _ENCRYPTED,
    "user_timeout_s": _TCP,
    "origins": _WEB,
}
_FILES: Final = frozenset({"ca_file", "certificate_file", "private_key_file"})
"""What a context of one's own stands in for where it is used."""
_INSTEAD: Final = {
    "certificate_file": "; a client that has a certificate passes tls=ssl.SSLContext(...)",
    "private_key_file": "; a client that has a certificate passes tls=ssl.SSLContext(...)",
    "ca_file": "; a server that asks clients for certificates passes tls=ssl.SSLContext(...)",
}
_is_pem_certificate: Final = re.compile(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----").search
_is_pem_key: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----").search


def check_client_options(options: TransportOptions, urls: Mapping[str, frozenset[str]]) -> None:
    """Raise :class:`ConfigurationError` when an option applies to none of the URLs, or a file cannot be used.

    :param urls: each URL, and the schemes it may stand for.
    """
    _check_sides(options, urls, _OF_CLIENTS, "servers, and this is a client")
    if options.tls is not None and options.tls.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ConfigurationError(
            "TransportOptions(tls=) holds the context of a server; a client needs ssl.create_default_context()"
        )
    if options.ca_file is not None:
        trusting_context(options.ca_file)


def check_server_options(options: TransportOptions, url: str, scheme: str) -> None:
    """The same for a server; beside, one that is encrypted must have a certificate."""
    _check_sides(options, {url: frozenset({scheme})}, _OF_SERVERS, "clients, and this is a server")
    if options.tls is not None and options.tls.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ConfigurationError(
            "TransportOptions(tls=) holds the context of a client; a server needs one with a certificate, "
            "ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), or certificate_file= in its place"
        )
    if options.certificate_file is not None:
        certified_context(options.certificate_file, options.private_key_file)
    elif options.private_key_file is not None:
        raise ConfigurationError("TransportOptions(private_key_file=) needs certificate_file= beside it")
    elif scheme in _ENCRYPTED and options.tls is None:
        raise ConfigurationError(
            f"{url} needs a certificate: pass TransportOptions(certificate_file=..., private_key_file=...) to listen()"
        )


def trusting_context(ca_file: str | os.PathLike[str]) -> ssl.SSLContext:
    """Return what a client encrypts with that trusts the authorities of a file and no others.

    Raise :class:`ConfigurationError` when the file cannot be read, or holds no certificate.
    """
    _read("ca_file", ca_file, _is_pem_certificate, "certificate")
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise _unusable("ca_file", ca_file, _reason(error)) from error


def certified_context(
    certificate_file: str | os.PathLike[str], private_key_file: str | os.PathLike[str] | None
) -> ssl.SSLContext:
    """Return what a server encrypts with. Raise :class:`ConfigurationError` when a file cannot be used."""
    certificates = _read("certificate_file", certificate_file, _is_pem_certificate, "certificate")
    if private_key_file is not None:
        _read("private_key_file", private_key_file, _is_pem_key, "private key")
    elif not _is_pem_key(certificates):
        raise _unusable(
            "certificate_file", certificate_file, "it holds no private key; pass private_key_file= too"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without the function OpenSSL would ask for a password at the terminal.
        context.load_cert_chain(certificate_file, private_key_file, password=_no_password)
    except (OSError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            reason = "the private key belongs to another certificate"
        else:
            reason = _reason(error)
        raise _unusable("certificate_file", certificate_file, reason) from error
    return context


def _check_sides(
    options: TransportOptions,
    urls: Mapping[str, frozenset[str]],
    schemes_of: Mapping[str, frozenset[str]],
    other_side: str,
) -> None:
    for field in _given(options):
        option = f"TransportOptions({field}=)"
        if field not in schemes_of:
            raise ConfigurationError(f"{option} is for {other_side}{_INSTEAD.get(field, '')}")
        schemes = schemes_of[field]
        if any(schemes & found for found in urls.values()):
            if field not in _FILES or options.tls is None:
                continue
            # A context is used in place of the files wherever one can be.
            if any((schemes - _TLS) & found for found in urls.values()):
                continue
            raise ConfigurationError(
                f"{option} has no effect beside tls=: load the file into that context, or leave tls= out"
            )
        instead = ""
        if field == "tls" and any("quic" in found for found in urls.values()):
            files = (
                "ca_file=..." if schemes_of is _OF_CLIENTS else "certificate_file=..., private_key_file=..."
            )
            instead = f"; QUIC cannot use an ssl.SSLContext: pass TransportOptions({files})"
        raise ConfigurationError(
            f"{option} does not apply to {', '.join(urls)}: it is for {_listed(schemes)}{instead}"
        )


def _given(options: TransportOptions) -> Sequence[str]:
    """Return the names of the options that ask for something."""
    return [
        field.name
        for field in msgspec.structs.fields(TransportOptions)
        if getattr(options, field.name) != _DEFAULT[field.name]
        # To go through no proxy is no wish where there is none.
        and not (field.name == "proxy" and options.proxy is False)
    ]


def _read(option: str, path: str | os.PathLike[str], is_there: Callable[[bytes], object], what: str) -> bytes:
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise _unusable(option, path, (error.strerror or str(error)).lower()) from error
    if not is_there(text):
        raise _unusable(option, path, f"it holds no {what} in PEM form")
    return text


def _unusable(option: str, path: str | os.PathLike[str], reason: str) -> ConfigurationError:
    return ConfigurationError(f"TransportOptions({option}=): {os.fspath(path)!r} cannot be used: {reason}")


def _reason(error: Exception) -> str:
    """Return OpenSSL's reason without its constants, or the system's."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, str) and reason:
        return reason.replace("_", " ").lower()
    return "it is damaged" if isinstance(error, ssl.SSLError) else str(error)


def _no_password() -> str:
    raise ValueError("the private key has a password; store it without one")


def _listed(schemes: frozenset[str]) -> str:
    *others, last = (f"{scheme}://" for scheme in sorted(schemes))
    return f"{', '.join(others)} and {last}" if others else last


_DEFAULT: Final = msgspec.structs.asdict(TransportOptions())
