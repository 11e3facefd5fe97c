"""Options of transports: the schemes they apply to, and checks of certificate files before anything starts."""

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
    """Settings of a transport in addition to its address.

    :func:`landline.connect`, :func:`landline.call` and :meth:`landline.Server.listen` raise
    :class:`ConfigurationError` if an option applies to none of the given URLs, or if a file cannot be used.
    """

    tls: ssl.SSLContext | None = None
    """``tls://`` and ``wss://``: a context to use in place of the files. QUIC cannot use one."""
    server_name: str = ""
    """Encrypted schemes, clients: the name for which the server's certificate must be valid. The default is the host of
    the URL."""
    certificate_file: str | os.PathLike[str] | None = None
    """Encrypted schemes, servers: the certificate, followed by its intermediate certificates, as PEM."""
    private_key_file: str | os.PathLike[str] | None = None
    """Encrypted schemes, servers: the certificate's private key as PEM, without a password. ``None`` if the certificate
    file contains it."""
    ca_file: str | os.PathLike[str] | None = None
    """Encrypted schemes, clients: the only certificate authorities to trust, as PEM. ``None`` means those that the
    system trusts (for QUIC on a system without any: those of certifi)."""
    user_timeout_s: float = 15.0
    """``tcp://``, ``tls://``, ``ws://`` and ``wss://``: sets ``TCP_USER_TIMEOUT`` (tcp(7)): how long, in seconds, the
    peer's kernel may leave sent bytes unacknowledged."""
    headers: dict[str, str] = {}
    """``ws://`` and ``wss://``, clients: headers of the request that opens the WebSocket, for gateways in between."""
    origins: tuple[str, ...] = ()
    """``ws://`` and ``wss://``, servers: origins (``https://example.org``) whose pages may connect in addition to pages
    of the same host. Programs send no origin and may always connect; ``"*"`` allows every page."""
    proxy: str | bool = True
    """``ws://`` and ``wss://``, clients: the HTTP proxy to use (``http://user:password@host:port``). ``True`` means the
    proxy of the environment variables (``https_proxy``, ``no_proxy``, ...), ``False`` means none."""

    def __post_init__(self) -> None:
        # msgspec checks types only when it decodes. A string as origins would allow each of its substrings.
        for name, (kinds, what) in _OPTION_TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (name == "user_timeout_s" and isinstance(value, bool)):
                raise ConfigurationError(
                    f"TransportOptions({name}=) must be {what}, not {type(value).__name__}"
                )
        for name, value in (("origins", self.origins), ("headers", [*self.headers, *self.headers.values()])):
            if not all(isinstance(one, str) for one in value):
                raise ConfigurationError(f"TransportOptions({name}=) must contain only strings")
        if not self.user_timeout_s > 0:
            raise ConfigurationError(
                f"TransportOptions(user_timeout_s={self.user_timeout_s:g}): must be greater than 0"
            )


_PATH: Final = ((str, os.PathLike, NoneType), "the path of a file")
_OPTION_TYPES: Final = {
    "tls": ((ssl.SSLContext, NoneType), "an ssl.SSLContext"),
    "server_name": ((str,), "a string"),
    "certificate_file": _PATH,
    "private_key_file": _PATH,
    "ca_file": _PATH,
    "user_timeout_s": ((int, float), "a number of seconds"),
    "headers": ((dict,), "a dict of strings"),
    "origins": ((tuple,), 'a tuple of strings, such as ("https://example.org",)'),
    "proxy": ((str, bool), "the URL of a proxy, True or False"),
}


_TLS: Final = frozenset({"tls", "wss"})
_ENCRYPTED: Final = frozenset({"tls", "wss", "quic"})
_WEB: Final = frozenset({"ws", "wss"})
_TCP: Final = frozenset({"tcp", "tls", "ws", "wss"})

_CLIENT_SCHEMES: Final = {
    "tls": _TLS,
    "server_name": _ENCRYPTED,
    "ca_file": _ENCRYPTED,
    "user_timeout_s": _TCP,
    "headers": _WEB,
    "proxy": _WEB,
}
_SERVER_SCHEMES: Final = {
    "tls": _TLS,
    "certificate_file": _ENCRYPTED,
    "private_key_file": _ENCRYPTED,
    "user_timeout_s": _TCP,
    "origins": _WEB,
}
_FILES: Final = frozenset({"ca_file", "certificate_file", "private_key_file"})
"""The options that ``tls=`` replaces."""
_ALTERNATIVE: Final = {
    "certificate_file": "; a client that has a certificate passes tls=ssl.SSLContext(...)",
    "private_key_file": "; a client that has a certificate passes tls=ssl.SSLContext(...)",
    "ca_file": "; a server that asks clients for certificates passes tls=ssl.SSLContext(...)",
}
_is_pem_certificate: Final = re.compile(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----").search
_is_pem_key: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----").search


def check_client_options(options: TransportOptions, urls: Mapping[str, frozenset[str]]) -> None:
    """Raise :class:`ConfigurationError` if an option applies to none of the URLs, or a file cannot be used.

    :param urls: each URL with the schemes it may resolve to.
    """
    _check_sides(options, urls, _CLIENT_SCHEMES, "servers, and this is a client")
    if options.tls is not None and options.tls.protocol == ssl.PROTOCOL_TLS_SERVER:
        raise ConfigurationError(
            "TransportOptions(tls=) is a context for servers; a client needs ssl.create_default_context()"
        )
    if options.ca_file is not None:
        trusting_context(options.ca_file)


def check_server_options(options: TransportOptions, url: str, scheme: str) -> None:
    """Raise :class:`ConfigurationError` as for a client, and if an encrypted scheme has no certificate."""
    _check_sides(options, {url: frozenset({scheme})}, _SERVER_SCHEMES, "clients, and this is a server")
    if options.tls is not None and options.tls.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ConfigurationError(
            "TransportOptions(tls=) is a context for clients; pass ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) with a "
            "certificate, or certificate_file= in its place"
        )
    if options.certificate_file is not None:
        certified_context(options.certificate_file, options.private_key_file)
    elif options.private_key_file is not None:
        raise ConfigurationError("TransportOptions(private_key_file=) needs certificate_file= as well")
    elif scheme in _ENCRYPTED and options.tls is None:
        raise ConfigurationError(
            f"{url} needs a certificate: pass TransportOptions(certificate_file=..., private_key_file=...) to listen()"
        )


def trusting_context(ca_file: str | os.PathLike[str]) -> ssl.SSLContext:
    """Return the TLS context of a client that trusts the authorities of a file and no others.

    :raises ConfigurationError: if the file cannot be read, or contains no certificate.
    """
    _read("ca_file", ca_file, _is_pem_certificate, "certificate")
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise _unusable("ca_file", ca_file, _reason(error)) from error


def certified_context(
    certificate_file: str | os.PathLike[str], private_key_file: str | os.PathLike[str] | None
) -> ssl.SSLContext:
    """Return the TLS context of a server. Raise :class:`ConfigurationError` if a file cannot be used."""
    certificates = _read("certificate_file", certificate_file, _is_pem_certificate, "certificate")
    if private_key_file is not None:
        _read("private_key_file", private_key_file, _is_pem_key, "private key")
    elif not _is_pem_key(certificates):
        raise _unusable(
            "certificate_file", certificate_file, "it contains no private key; pass private_key_file= as well"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without this function OpenSSL would ask for a password at the terminal.
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
            raise ConfigurationError(f"{option} is for {other_side}{_ALTERNATIVE.get(field, '')}")
        schemes = schemes_of[field]
        if any(schemes & found for found in urls.values()):
            if field not in _FILES or options.tls is None:
                continue
            # The context replaces the files for every scheme that can use one.
            if any((schemes - _TLS) & found for found in urls.values()):
                continue
            raise ConfigurationError(
                f"{option} has no effect together with tls=; load the file into that context, or omit tls="
            )
        hint = ""
        if field == "tls" and any("quic" in found for found in urls.values()):
            files = (
                "ca_file=..."
                if schemes_of is _CLIENT_SCHEMES
                else "certificate_file=..., private_key_file=..."
            )
            hint = f"; QUIC cannot use an ssl.SSLContext: pass TransportOptions({files})"
        raise ConfigurationError(
            f"{option} does not apply to {', '.join(urls)}: it is for {_listed(schemes)}{hint}"
        )


def _given(options: TransportOptions) -> Sequence[str]:
    """Return the names of the options that differ from their defaults."""
    return [
        field.name
        for field in msgspec.structs.fields(TransportOptions)
        if getattr(options, field.name) != _DEFAULT[field.name]
        # proxy=False has no effect on schemes without proxies, but does no harm.
        and not (field.name == "proxy" and options.proxy is False)
    ]


def _read(option: str, path: str | os.PathLike[str], is_there: Callable[[bytes], object], what: str) -> bytes:
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise _unusable(option, path, (error.strerror or str(error)).lower()) from error
    if not is_there(text):
        raise _unusable(option, path, f"it contains no {what} in PEM format")
    return text


def _unusable(option: str, path: str | os.PathLike[str], reason: str) -> ConfigurationError:
    return ConfigurationError(f"TransportOptions({option}=): {os.fspath(path)!r} cannot be used: {reason}")


def _reason(error: Exception) -> str:
    """Return OpenSSL's reason without its constants, or the system's reason."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, str) and reason:
        return reason.replace("_", " ").lower()
    return "it is corrupted" if isinstance(error, ssl.SSLError) else str(error)


def _no_password() -> str:
    raise ValueError("the private key has a password; store it without one")


def _listed(schemes: frozenset[str]) -> str:
    *others, last = (f"{scheme}://" for scheme in sorted(schemes))
    return f"{', '.join(others)} and {last}" if others else last


_DEFAULT: Final = msgspec.structs.asdict(TransportOptions())
