"""Other threads: none of them may touch a line, and each gets an error that says so."""

import asyncio
import threading

import pytest

import landline


async def in_a_thread(function, *arguments):
    """What the function raises in a thread, or returns."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def run_to_its_first_wait(coroutine):
    """Runs a coroutine until it waits for something. A thread that calls it without an event loop can do no more."""
    try:
        coroutine.send(None)
    except StopIteration:
        pass
    finally:
        coroutine.close()


METHODS = {
    "line.send_nowait": lambda line, server: line.send_nowait(1),
    "line.send": lambda line, server: run_to_its_first_wait(line.send(1)),
    "line.send_eof": lambda line, server: run_to_its_first_wait(line.send_eof()),
    "line.send_datagram": lambda line, server: line.send_datagram(1),
    "line.request": lambda line, server: run_to_its_first_wait(line.request("add")),
    "line.drain": lambda line, server: run_to_its_first_wait(line.drain()),
    "line.ping": lambda line, server: run_to_its_first_wait(line.ping()),
    "line.recv": lambda line, server: run_to_its_first_wait(line.recv()),
    "line.__anext__": lambda line, server: run_to_its_first_wait(line.__anext__()),
    "line.abort": lambda line, server: line.abort(landline.Code.NORMAL),
    "line.break_link": lambda line, server: line.break_link(),
    "server.broadcast": lambda line, server: server.broadcast(1),
    "server.broadcast_datagram": lambda line, server: server.broadcast_datagram(1),
    "group.add": lambda line, server: server.group("all").add(line),
    "group.discard": lambda line, server: server.group("all").discard(line),
    "group.broadcast": lambda line, server: server.group("all").broadcast(1),
    "group.broadcast_datagram": lambda line, server: server.group("all").broadcast_datagram(1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("side", ["client", "server"])
async def test_another_thread_is_told_before_anything_is_changed(pair, method, side):
    server = landline.Server()
    async with pair(server) as (line, other):
        mine, theirs = (line, other) if side == "client" else (other, line)
        with pytest.raises(
            RuntimeError, match=rf"^{method}\(\) was called from the thread .*call_soon_threadsafe"
        ):
            await in_a_thread(METHODS[method], mine, server)
        assert mine.buffered_bytes == 0
        assert mine.state is landline.LineState.ONLINE
        # It is as it was.
        await mine.send("still here")
        assert await anext(theirs) == "still here"


async def test_the_loop_does_for_a_thread_what_it_may_not(pair):
    loop = asyncio.get_running_loop()

    def work(line):
        loop.call_soon_threadsafe(line.send_nowait, 1)
        asyncio.run_coroutine_threadsafe(line.send(2), loop).result()

    async with pair() as (line, other):
        await in_a_thread(work, line)
        assert [await anext(other), await anext(other)] == [1, 2]


async def test_a_server_belongs_to_the_thread_in_which_it_begins_and_not_to_the_one_that_made_it():
    """As in a web application, which is imported in one thread and served in another."""
    made = await in_a_thread(landline.Server)
    assert made.broadcast("nobody is there yet").sent == 0
    async with made.listen("tcp://127.0.0.1:0") as endpoint, landline.connect(str(endpoint)) as line:
        assert made.broadcast("hello").sent == 1
        assert await anext(line) == "hello"


async def test_a_loop_in_another_thread_is_a_home_as_any(pair):
    found = []

    async def live():
        async with pair() as (line, other):
            await line.send(1)
            found.append(await anext(other))

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    await in_a_thread(thread.join)
    assert found == [1]
