"""A deterministic simulation of whole systems: the real library and fleet, on virtual machines, clocks and networks.

Every node is a process with an event loop of its own under virtual time. Sockets, disks, clocks and random generators
are simulated; everything above them is the real code. Every random number comes from one seed.
"""
