"""A private network: a namespace at the other end of a virtual cable, for tests of effects that only a kernel has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest


def run(*command: str) -> None:
    """Run a program; raise an error with its output if it fails."""
    subprocess.run(command, check=True, capture_output=True, text=True)


class Cable:
    """A virtual cable between this machine and a namespace in which a server has an address.

    :param name: at most 5 characters (a device's name has 15), other than those of other tests.
    :param network: the first two numbers of the addresses, of 198.18.0.0/15 (RFC 2544, section C.2.2); the rest is
        drawn from the id of this process.
    """

    def __init__(self, name: str, network: str) -> None:
        self.name = f"{name}{os.getpid()}"
        self.ours, self.theirs = f"{name}a{os.getpid()}", f"{name}b{os.getpid()}"
        net = os.getpid() % 8_000 * 8
        self.server, self.first, self.second = (
            f"{network}.{net // 256}.{net % 256 + host}" for host in (1, 2, 3)
        )

    @property
    def inside(self) -> tuple[str, ...]:
        """The prefix of a command that runs in the namespace."""
        return ("ip", "netns", "exec", self.name)

    def set_up(self) -> None:
        """Create the cable."""
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.ours, "type", "veth", "peer", "name", self.theirs, "netns", self.name)
        run("ip", "address", "add", f"{self.first}/29", "dev", self.ours)
        run("ip", "link", "set", self.ours, "up")
        run(*self.inside, "ip", "address", "add", f"{self.server}/29", "dev", self.theirs)
        run(*self.inside, "ip", "link", "set", self.theirs, "up")
        run(*self.inside, "ip", "link", "set", "lo", "up")

    def take_down(self) -> None:
        """Remove what exists of it."""
        subprocess.run(("ip", "netns", "del", self.name), check=False, capture_output=True)
        subprocess.run(("ip", "link", "del", self.ours), check=False, capture_output=True)

    def move(self) -> None:
        """Replace the address of this machine, and with it its routes."""
        run("ip", "address", "del", f"{self.first}/29", "dev", self.ours)
        run("ip", "address", "add", f"{self.second}/29", "dev", self.ours)

    def drop(self) -> None:
        """Drop every packet in the namespace, in both directions and without any notification."""
        run(*self.inside, "nft", "add", "table", "inet", "hole")
        for hook in ("input", "output"):
            rule = f"add chain inet hole {hook} {{ type filter hook {hook} priority 0; policy drop; }}"
            run(*self.inside, "nft", rule)

    def heal(self) -> None:
        """End :meth:`drop`."""
        run(*self.inside, "nft", "delete", "table", "inet", "hole")


def laid(name: str, network: str, *programs: str) -> Iterator[Cable]:
    """The body of a fixture. Skip without root, without one of these programs, or without namespaces."""
    missing = [program for program in ("ip", *programs) if not shutil.which(program)]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root, and {', '.join(('ip', *programs))}")
    cable = Cable(name, network)
    try:
        try:
            cable.set_up()
            if "nft" in programs:
                cable.drop()
                cable.heal()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield cable
    finally:
        cable.take_down()
