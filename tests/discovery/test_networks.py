"""Announcing on networks of every kind, in namespaces of their own."""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys

import pytest
from tests.cable import laid, run
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

import landline
from landline.discovery.records import STREAM_TYPE

SERVE = """
import sys
import landline

async def serve(url, name):
    server = landline.Server()
    try:
        async with server.listen(url, announce=name) as endpoint:
            print(endpoint.port, flush=True)
            await server.serve_forever()
    except OSError as error:
        print(type(error).__name__, error, flush=True)

landline.run(serve(*sys.argv[1:]))
"""
FIND = """
import sys
import landline

async def find(name):
    for one in await landline.discover(3.0):
        if one.name == name:
            print(*one.endpoints)

landline.run(find(sys.argv[1]))
"""


@pytest.fixture
def name():
    return f"test-{secrets.token_hex(6)}"


@contextlib.asynccontextmanager
async def program(inside, script, *arguments):
    process = await asyncio.create_subprocess_exec(
        *inside, sys.executable, "-c", script, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def said(process) -> str:
    return (await process.stdout.readline()).decode().strip()


async def test_a_name_is_refused_where_answers_to_one_address_do_not_arrive(name, multicast):
    """As where another program on the machine has the port of multicast DNS too, and gets them."""
    with contextlib.contextmanager(laid)("mdnsu", "198.19", "nft") as cable:
        run(*cable.inside, "nft", "add", "table", "ip", "unicast")
        run(*cable.inside, "nft", "add chain ip unicast output { type filter hook output priority 0; }")
        run(*cable.inside, "nft", "add rule ip unicast output udp dport 5353 ip daddr != 224.0.0.251 drop")
        async with program(cable.inside, SERVE, "tcp://0.0.0.0:0", name) as process:
            assert (await said(process)).isdecimal()
            with pytest.raises(landline.AddressInUse, match=f"announced as '{name}' on this network"):
                async with landline.Server().listen("tcp://0.0.0.0:0", announce=name):
                    pytest.fail("took a name that is taken")


async def test_of_two_that_want_a_name_in_the_same_moment_one_gets_it(name, multicast):
    entered = [landline.Server().listen("tcp://0.0.0.0:0", announce=name) for _ in range(2)]
    results = await asyncio.gather(*(one.__aenter__() for one in entered), return_exceptions=True)
    for one, result in zip(entered, results, strict=True):
        if not isinstance(result, BaseException):
            await one.__aexit__(None, None, None)
    assert sorted(type(result).__name__ for result in results) == ["AddressInUse", "Endpoint"], results


async def test_a_namesake_that_comes_later_is_logged(name, multicast, caplog, until):
    zeroconf = AsyncZeroconf()
    try:
        async with landline.Server().listen("tcp://0.0.0.0:0", announce=name) as endpoint:
            namesake = AsyncServiceInfo(
                STREAM_TYPE,
                f"{name} tcp.{STREAM_TYPE}",
                port=endpoint.port - 1,
                server="elsewhere\x1b.local.",
                parsed_addresses=[multicast],
            )
            with caplog.at_level(logging.WARNING):
                await zeroconf.async_register_service(namesake, cooperating_responders=True)
                await until(lambda: "is announced as" in caplog.text)
            [record] = [each for each in caplog.records if "is announced as" in each.getMessage()]
            assert name in record.getMessage()
            assert (
                f"at port {endpoint.port - 1}; clients that connect by name will fail" in record.getMessage()
            )
            assert "\x1b" not in record.getMessage()
    finally:
        await zeroconf.async_close()


class Pair:
    """Two machines with a cable between them, and no addresses yet."""

    def __init__(self) -> None:
        self.names = [f"mdns{side}{os.getpid()}" for side in "xy"]
        self.devices = [f"mdn{side}{os.getpid()}" for side in "xy"]

    def inside(self, side: int) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.names[side])

    def set_up(self) -> None:
        for namespace in self.names:
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        first, second = self.devices
        run(
            "ip",
            "-n",
            self.names[0],
            "link",
            "add",
            first,
            "type",
            "veth",
            "peer",
            second,
            "netns",
            self.names[1],
        )

    def connect(self, *addresses: str) -> None:
        for namespace, device, address in zip(self.names, self.devices, addresses, strict=True):
            run("ip", "-n", namespace, "link", "set", device, "addrgenmode", "none")
            run("ip", "-n", namespace, "link", "set", device, "up")
            run("ip", "-n", namespace, "address", "add", address, "dev", device, "nodad")

    def take_down(self) -> None:
        for namespace in self.names:
            subprocess.run(("ip", "netns", "del", namespace), check=False, capture_output=True)


@pytest.fixture
def pair():
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs root, and ip")
    pair = Pair()
    try:
        try:
            pair.set_up()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield pair
    finally:
        pair.take_down()


async def test_a_network_without_ipv4(pair, name):
    pair.connect("fd77::1/64", "fd77::2/64")
    async with program(pair.inside(0), SERVE, "tcp://[::]:0", name) as first:
        port = await said(first)
        async with program(pair.inside(1), FIND, name) as looking:
            assert await said(looking) == f"tcp://[fd77::1]:{port}"
        async with program(pair.inside(1), SERVE, "tcp://[::]:0", name) as second:
            assert (await said(second)).startswith("AddressInUse")


async def test_two_servers_on_one_machine_without_a_route_to_anywhere(pair, name):
    pair.connect("198.18.77.1/24", "198.18.77.2/24")
    async with program(pair.inside(0), SERVE, "tcp://0.0.0.0:0", name) as first:
        assert (await said(first)).isdecimal()
        async with program(pair.inside(0), SERVE, "tcp://0.0.0.0:0", name) as second:
            assert (await said(second)).startswith("AddressInUse")


async def test_a_machine_without_a_network(pair, name):
    async with program(pair.inside(0), SERVE, "tcp://0.0.0.0:0", name) as first:
        assert re.search("cannot be announced.*no address (that )?others can reach", await said(first))
