"""A deterministic simulation of whole systems: the real library and fleet, on virtual machines, clocks and networks.

Every node is a process with an event loop of its own under virtual time; sockets, disks, clocks and dice are pretended,
everything above them is the real code. All chance comes out of one seed.
"""
