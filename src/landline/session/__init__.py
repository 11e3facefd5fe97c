"""The session of a line, without I/O.

Nothing in this package reads a clock, creates random numbers, waits or opens a socket. Callers pass ``now`` (seconds on
any monotonic clock) and a random generator, put bytes in, and get bytes and events out. Method names follow a grammar:

``receive_*``
    bytes or facts from outside go in
``feed``
    bytes go into an incremental parser, which returns what is whole
``*_to_send``
    bytes to write come out
``next_*``
    what happened, what to write, or when to call again
``pop_*``
    return and forget
``handle_*``
    the caller reports what it promised to (a timer is due)
"""
