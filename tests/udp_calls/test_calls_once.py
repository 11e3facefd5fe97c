"""No handler runs twice, and every call ends: on a network that loses, repeats, delays and reorders datagrams, with
servers that restart and drop records, clients that change their address, and an attacker who replays recorded
datagrams. Virtual time."""

import heapq
import itertools
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landline.codes import Operation
from landline.udp_calls import CallCounts
from landline.udp_calls.call_client import ClientCall
from landline.udp_calls.call_server import CallServer, NewCall
from landline.udp_calls.wire import Aead, Reply

TIMEOUT_S = 30.0
AEAD = Aead(b"a secret that both sides know")


class World:
    """A server, some calls, an attacker, and a network whose faults come from the random generator."""

    def __init__(
        self, rng: random.Random, *, calls=4, restarts=3, replays=40, calls_max=3, trouble=0.3, up_s=0.0
    ) -> None:
        self.rng = rng
        self.trouble = trouble
        self.calls_max = calls_max
        self.now = 0.0
        self.events = []
        self.order = itertools.count()
        self.recorded = []
        self.runs = {}
        self.asked = []
        self.ends = {}
        self.answers = {}
        # A cookie that all callers share, as the calls of one process do.
        self.cookie = b""
        self.start_server(up_s)
        for _ in range(restarts):
            self.at(rng.uniform(0, 40), self.stop_server)
            self.at(rng.uniform(0, 40), self.sleep_server)
        for number in range(calls):
            self.at(rng.choice([0.0, rng.uniform(0, 40)]), lambda number=number: self.begin(number))
        for _ in range(replays):
            self.at(rng.uniform(0, 120), self.replay)

    def at(self, when: float, what) -> None:
        heapq.heappush(self.events, (when, next(self.order), what))

    def run(self) -> None:
        while self.events:
            self.now, _, what = heapq.heappop(self.events)
            what()

    # The server. Each process has a clock of its own.

    def start_server(self, up_s: float = 0.0) -> None:
        self.awake_at = self.now
        self.offset = self.rng.uniform(0, 1e6)
        self.rate = self.rng.uniform(0.9995, 1.0005)
        self.server = CallServer(
            aead=AEAD,
            random=self.rng,
            now=self.clock() - up_s,
            counts=CallCounts(),
            calls_max=self.calls_max,
        )

    def clock(self) -> float:
        return self.offset + self.now * self.rate

    def stop_server(self) -> None:
        if self.server is not None:
            self.server = None
            self.at(self.now + self.rng.choice([0.0, 0.001, 0.3, 5.0]), self.start_server)

    def sleep_server(self) -> None:
        """Let the machine of the server sleep, with its clock. Datagrams that arrive are handled afterwards."""
        if self.server is None or self.now < self.awake_at:
            return
        server, slept_s = self.server, self.rng.choice([1.0, 20.0])
        self.awake_at = self.now + slept_s

        def wake() -> None:
            if self.server is server:
                self.offset -= slept_s * self.rate

        self.at(self.awake_at, wake)

    def receive(self, datagram: bytes, address: str, caller) -> None:
        server = self.server
        if server is None:
            return
        if self.now < self.awake_at:
            self.at(self.awake_at, lambda: self.receive(datagram, address, caller))
            return
        decided = server.receive_datagram(datagram, address, self.clock())
        if isinstance(decided, NewCall):
            self.runs[decided.call_id] = self.runs.get(decided.call_id, 0) + 1

            def finish() -> None:
                if self.server is server and self.now < self.awake_at:
                    self.at(self.awake_at, finish)
                elif self.server is server:
                    reply = Reply(Operation.RESPONSE, decided.call.body[::-1], False)
                    self.send(server.answer(decided.call_id, reply, self.clock()), caller)

            took = self.rng.choice([0.0, 0.0, self.rng.uniform(0, 10)])
            self.at(self.now + took, finish)
        elif decided is not None:
            assert len(decided) <= 3 * len(datagram) or decided[1] == 2
            self.send(decided, caller)

    # The network.

    def send(self, datagram: bytes, receive) -> None:
        for _ in range(self.copies()):
            self.at(self.now + self.delay(), lambda: receive(datagram))

    def copies(self) -> int:
        if self.rng.random() > self.trouble:
            return 1
        return self.rng.choice([0, 0, 0, 2])

    def delay(self) -> float:
        return 0.001 if self.rng.random() > self.trouble else self.rng.choice([0.01, 1.0, 7.0, 25.0])

    def replay(self) -> None:
        """Replay a recorded datagram, from the attacker's address or from that of the client."""
        if self.recorded:
            datagram, address, caller = self.rng.choice(self.recorded)
            self.receive(datagram, self.rng.choice([address, "10.6.6.6"]), self.rng.choice([caller, ignore]))

    # Callers.

    def begin(self, number: int) -> None:
        body = b"call %d" % number
        call = ClientCall(
            aead=AEAD,
            random=self.rng,
            now=self.now,
            name="work",
            body=body,
            is_packed=False,
            cookie=self.cookie if self.rng.random() < 0.7 else b"",
        )
        self.asked.append(call)
        deadline = self.now + TIMEOUT_S
        address = "10.0.0.1"

        def receive(datagram: bytes) -> None:
            if self.now < deadline and call.receive_datagram(datagram, self.now):
                self.cookie = call.cookie
                if call.reply is not None:
                    assert call.reply.body == body[::-1]
                    self.ends[number] = "answered"
                elif call.is_lost:
                    self.ends[number] = "lost"
                else:
                    tick()

        def tick() -> None:
            nonlocal address
            if call.is_over:
                return
            if self.now >= deadline:
                self.ends.setdefault(number, "timeout" if call.exposed_at is not None else "unreachable")
                return
            if self.now >= call.due:
                if self.rng.random() < self.trouble / 4:
                    address = self.rng.choice(["10.0.0.1", "10.0.0.2"])
                datagram = call.data_to_send(self.now)
                self.recorded.append((datagram, address, receive))
                here = address
                self.send(datagram, lambda data: self.receive(data, here, receive))
            self.at(min(call.due, deadline), tick)

        tick()


def ignore(datagram: bytes) -> None:
    """The attacker cannot read the replies."""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), trouble=st.sampled_from([0.0, 0.1, 0.3, 0.6]), calls_max=st.integers(0, 6))
def test_no_handler_runs_twice_and_every_call_ends(seed, trouble, calls_max):
    world = World(random.Random(seed), trouble=trouble, calls_max=calls_max)
    world.run()
    assert set(world.runs.values()) <= {1}, world.runs
    assert len(world.ends) == len(world.asked) == 4
    answered = sum(end == "answered" for end in world.ends.values())
    assert answered <= len(world.runs)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), trouble=st.sampled_from([0.0, 0.1, 0.3]))
def test_without_restarts_every_call_is_answered_or_runs_out_of_time(seed, trouble):
    world = World(random.Random(seed), trouble=trouble, restarts=0, calls_max=1000, up_s=60.0)
    world.run()
    assert "lost" not in world.ends.values()
    if trouble == 0.0:
        assert set(world.ends.values()) == {"answered"}
        assert len(world.runs) == 4


def test_a_call_that_was_never_exposed_never_ran():
    seen = 0
    for seed in range(100):
        world = World(random.Random(seed), calls=1, trouble=1.0, restarts=0)
        world.run()
        if world.ends == {0: "unreachable"}:
            seen += 1
            assert not world.runs
    assert seen > 10


# Each rule is needed: without it, the same worlds show a handler that runs twice.


def take_any_cookie(self, retry, now):
    if retry.answered == self._nonce:
        self._use_cookie(retry.cookie, now)


def retry_without_touching(self, opened, address, now_us):
    known = self._answered.pop(opened.call_id, None)
    try:
        return ORIGINAL_RETRY(self, opened, address, now_us)
    finally:
        if known is not None:
            self._answered[opened.call_id] = known
            self._answered.move_to_end(opened.call_id, last=False)


def accept_old_cookies(self, cookie, address, now_us):
    since, self._complete_since_us = self._complete_since_us, 0
    try:
        return ORIGINAL_ACCEPTS(self, cookie, address, now_us)
    finally:
        self._complete_since_us = since


ORIGINAL_RETRY = CallServer._retry
ORIGINAL_ACCEPTS = CallServer._accepts_cookie


@pytest.mark.parametrize(
    ("owner", "name", "without"),
    [
        (ClientCall, "_receive_retry", take_any_cookie),
        (CallServer, "_retry", retry_without_touching),
        (CallServer, "_accepts_cookie", accept_old_cookies),
    ],
)
def test_without_a_rule_a_handler_runs_twice(monkeypatch, owner, name, without):
    monkeypatch.setattr(owner, name, without)
    for seed in range(3000):
        world = World(random.Random(seed), trouble=0.5, calls_max=seed % 4)
        world.run()
        if max(world.runs.values(), default=0) > 1:
            return
    pytest.fail("the worlds of this file would not notice that the rule is missing")
