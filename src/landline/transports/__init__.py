"""Transports by URL scheme: bytes in, bytes out."""
