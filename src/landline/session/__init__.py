"""The session behind a line, without I/O.

Nothing in here reads a clock, rolls dice, waits or touches a socket: callers pass ``now`` (seconds on any
monotonic clock) and a random generator, feed bytes in, and take bytes and events out. The names are a grammar:

``receive_*``
    bytes or facts from outside go in
``*_to_send``
    bytes to write come out
``next_*``
    what happened, or when to call again
``handle_*``
    something the caller promised to report (a timer came due)
"""
