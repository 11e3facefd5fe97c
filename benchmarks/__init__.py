"""Measures landline beside its peers on this machine: ``python -m benchmarks``.

Every figure is taken of a server in a process of its own, pinned to one core, under load from another process on
another core that sends frames encoded beforehand, so that the load is not what is measured. Peers take turns in
short rounds, so that a noisy minute hits all of them.
"""
