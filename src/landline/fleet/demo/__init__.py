"""A control server and simulated machines on one computer."""
