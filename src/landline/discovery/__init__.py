"""Announce servers on the local network and find them, with multicast DNS."""
