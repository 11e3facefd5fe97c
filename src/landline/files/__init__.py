"""Files over lines: offered, checked, resumed, and never half there.

Built on what every user of a line has, requests and messages on the bulk lane (``docs/files.md``, and
``docs/protocol.md`` §5.8 for the words on the wire). ``words`` and ``decisions`` are pure; ``source`` and ``partial``
touch the disk, in threads only; ``sending`` and ``receiving`` bring both together.
"""
