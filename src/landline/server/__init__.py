"""The server side: listen, do handshakes, answer, broadcast, and close in order."""
