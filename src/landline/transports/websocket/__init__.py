"""WebSocket (RFC 6455): opening handshake and stream."""
