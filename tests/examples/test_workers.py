"""examples/workers.py"""

import re
import signal

from examples.workers import Job

from landline import parse_url
from landline.testing import FaultProxy

PRIMES_BELOW_400000 = 33860
SMALL_JOB = ("--listen", "tcp://127.0.0.1:0", "--limit", "400000", "--size", "4000")


def pieces_done(program) -> set[int]:
    return {int(number) for number in re.findall(r"^piece (\d+): ", program.out, flags=re.MULTILINE)}


def pieces_counted(counter) -> list[int]:
    """Return the number of counted pieces of each worker."""
    return [int(number) for number in re.findall(r": (\d+) pieces$", counter.out, flags=re.MULTILINE)]


async def test_pieces_are_distributed_among_workers(start, until) -> None:
    counter = start("workers.py", "count", *SMALL_JOB)
    endpoint = parse_url(await counter.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        # Neither worker starts before both are connected.
        proxy.hold()
        workers = [start("workers.py", "work", "--server", proxy.url) for _ in range(2)]
        await until(lambda: len(proxy.connections) == 2)
        proxy.heal()
        assert await counter.ends() == 0
    assert len(pieces_counted(counter)) == 2
    assert sum(pieces_counted(counter)) == 100
    done = [pieces_done(worker) for worker in workers]
    assert done[0] | done[1] == set(range(100))
    assert not done[0] & done[1]


async def test_pieces_of_a_killed_worker_are_done_by_others(start) -> None:
    counter = start("workers.py", "count", *SMALL_JOB)
    url = await counter.listens()
    # With several pieces at a time, it is killed with unfinished ones.
    victim = start("workers.py", "work", "--server", url, "--concurrency", "8")
    await victim.says("^piece ")
    victim.kill()
    assert len(pieces_done(victim)) < 92
    other = start("workers.py", "work", "--server", url)
    assert await counter.ends() == 0
    assert f"{PRIMES_BELOW_400000} primes below 400000: 100 pieces, each counted once" in counter.lines
    assert re.search(r"^\S+ is away \(link lost\)$", counter.out, flags=re.MULTILINE)
    assert sum(pieces_counted(counter)) == 100
    assert pieces_done(victim) | pieces_done(other) == set(range(100))


async def test_an_unreachable_worker_does_not_delay_the_job(start) -> None:
    counter = start("workers.py", "count", *SMALL_JOB)
    endpoint = parse_url(await counter.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        lonely = start("workers.py", "work", "--server", proxy.url, "--concurrency", "4")
        await lonely.says("^piece ", times=4)
        await proxy.refuse()
        proxy.reset()
        await counter.says("is away")
        other = start("workers.py", "work", "--server", str(endpoint))
        # Long before the session of the unreachable worker expires.
        assert await counter.ends() == 0
    assert f"{PRIMES_BELOW_400000} primes below 400000: 100 pieces, each counted once" in counter.lines
    # Workers wait for the next job.
    assert await other.ends(signal.SIGINT) == 130


async def test_results_of_a_worker_survive_lost_connections(start) -> None:
    counter = start("workers.py", "count", *SMALL_JOB)
    endpoint = parse_url(await counter.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        worker = start("workers.py", "work", "--server", proxy.url)
        for times in (3, 30, 60):
            await worker.says("^piece ", times=times)
            proxy.reset()
        assert await counter.ends() == 0
    assert f"{PRIMES_BELOW_400000} primes below 400000: 100 pieces, each counted once" in counter.lines
    assert re.search(r"^  \S+: 100 pieces$", counter.out, flags=re.MULTILINE)


async def test_two_results_for_one_piece_count_once() -> None:
    job = Job(limit=10, size=10)
    piece = job.waiting.get_nowait()
    job.finish(piece, 4, "first")
    job.finish(piece, 4, "second")
    assert (job.results, job.done_by, job.done_twice) == ({0: 4}, {"first": 1}, 1)
    assert job.is_done.is_set()
