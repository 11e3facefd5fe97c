"""QUIC (RFC 9000): one line over one stream of one connection."""
