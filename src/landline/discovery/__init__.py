"""Servers on the local network, announced and found with multicast DNS."""
