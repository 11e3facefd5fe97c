"""The client's side: connect, stay connected, come back; and single calls."""
