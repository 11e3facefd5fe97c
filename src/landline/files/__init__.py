"""Sending files over lines: each file is offered, checked, resumed, and stored as a whole or not at all.

Built on requests and messages of the bulk lane, which every user of a line has (``docs/files.md``; the messages are
in ``docs/protocol.md`` §5.8). ``messages``, ``limits``, ``names``, ``transfer`` and ``progress`` are pure. ``source``
and ``partial_file`` access the disk, and run in the threads of ``disk_pool`` only. ``outgoing`` and ``incoming``
combine both, and ``exchange`` connects them with the lines of a server or a client.
"""
