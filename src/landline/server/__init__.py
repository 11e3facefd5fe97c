"""The server's side: listen, admit, answer, broadcast, close in order."""
