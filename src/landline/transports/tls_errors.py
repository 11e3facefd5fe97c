"""Readable texts for TLS errors of clients."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
"""``X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT`` and related codes (OpenSSL, x509_vfy.h): the issuer is unknown."""
_NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL"}
)
"""OpenSSL's reasons for bytes that are not a TLS record."""


@contextmanager
def readable_tls_errors() -> Iterator[None]:
    """Replace the text of an :class:`ssl.SSLError` by :func:`describe_tls_error`; keep its class and its codes."""
    try:
        yield
    except ssl.SSLError as error:
        error.strerror = describe_tls_error(error)
        raise


def describe_tls_error(error: ssl.SSLError) -> str:
    """Return the error as part of a sentence, without OpenSSL's constants and source lines."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.removesuffix(".")
        if error.verify_code in _UNKNOWN_AUTHORITY:
            why += "; if you trust it, pass the certificate of its authority"
        return f"the server's certificate is not accepted: {why}"
    if error.reason in _NOT_TLS:
        return "the server does not speak TLS; check the scheme of the URL"
    return (
        f"TLS failed: {error.reason.replace('_', ' ').lower() if error.reason else error.strerror or error}"
    )
