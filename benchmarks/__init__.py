"""Measure landline beside its peers on this machine: ``python -m benchmarks``.

The measured server is a separate process pinned to one core. The load is another process on another core, which sends
frames that were encoded beforehand, so that the load itself is not measured. Peers take turns in short rounds, so that
a disturbance of the machine affects all of them.
"""
