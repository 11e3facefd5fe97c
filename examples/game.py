"""A small game with 60 states a second: positions travel in datagrams, scores in messages.

    python examples/game.py server
    python examples/game.py play alice              # catch the coin first: w, a, s, d move, q quits
    python examples/game.py play bob --bot          # plays by itself, and prints loss and delay

A late state is useless, because the next one follows: datagrams arrive at most once, and are never resent. A score must
arrive exactly once: it is a message on the same line. Over QUIC each datagram is a datagram of the network, so none
waits for the retransmission of a lost one:

    python examples/game.py server --listen quic://0.0.0.0:5463 --certificate game.pem --key game.key
    python examples/game.py play carol --server quic://game.example:5463
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import msgspec

import landline

TICKS_PER_S = 60
WIDTH, HEIGHT = 60, 20
SPEED = 0.4
"""Fields per tick."""
REACH = 1.0
PLAYERS_MAX = 40
"""The number of positions that fit into a datagram of 1,200 bytes."""
NAME = re.compile(r"[\w.-]{1,20}")
Direction = Annotated[int, msgspec.Meta(ge=-1, le=1)]
Column = Annotated[float, msgspec.Meta(ge=0, lt=WIDTH)]
Row = Annotated[float, msgspec.Meta(ge=0, lt=HEIGHT)]


class Move(msgspec.Struct, array_like=True):
    """Datagram to the server, in response to each state: the direction of the player."""

    right: Direction
    down: Direction


class Player(msgspec.Struct, array_like=True):
    number: int
    x: Column
    y: Row


class State(msgspec.Struct, array_like=True):
    """Datagram to all players, in each tick."""

    tick: int
    coin: tuple[Column, Row]
    players: list[Player]


class News(msgspec.Struct):
    """Message to all players."""

    who: int
    name: Annotated[str, msgspec.Meta(pattern=f"^{NAME.pattern}$")]
    what: Literal["joined", "scored", "left"]
    score: int = 0


class World:
    """The state of the game, independent of the network."""

    def __init__(self) -> None:
        self.tick = 0
        self.players: dict[landline.Line, Player] = {}
        self.moves: dict[landline.Line, Move] = {}
        self.scores: dict[landline.Line, int] = {}
        self._place_coin()

    def step(self) -> landline.Line | None:
        """Advance by one tick. Return the player who caught the coin, if any."""
        self.tick += 1
        winner = None
        for line, player in self.players.items():
            move = self.moves.get(line) or Move(0, 0)
            player.x = round(min(max(player.x + SPEED * move.right, 0), WIDTH - 1), 1)
            player.y = round(min(max(player.y + SPEED * move.down, 0), HEIGHT - 1), 1)
            if abs(player.x - self.coin[0]) < REACH and abs(player.y - self.coin[1]) < REACH:
                winner = line
        if winner is not None:
            self.scores[winner] = self.scores.get(winner, 0) + 1
            self._place_coin()
        return winner

    def _place_coin(self) -> None:
        self.coin = (random.randrange(WIDTH), random.randrange(HEIGHT))


async def serve(url: str, options: landline.TransportOptions) -> None:
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=1, timeout_s=1), resume_window_s=20)
    world = World()
    numbers = itertools.count(1)

    def announce(line: landline.Line, what: Literal["joined", "scored", "left"]) -> None:
        player, score = world.players[line], world.scores.get(line, 0)
        server.broadcast(News(player.number, line.identity, what, score), name="news")
        print(f"{line.identity} {what}{f', {score}' if what == 'scored' else ''}", flush=True)

    @server.on_line
    async def enter(line: landline.Line) -> None:
        if not NAME.fullmatch(line.identity) or len(world.players) >= PLAYERS_MAX:
            refusal = f"use a name of 1 to 20 letters, digits, dots or dashes; {PLAYERS_MAX} players at most"
            await line.close(landline.Code.FORBIDDEN, refusal)
            return
        number = next(numbers)
        await line.send(number, name="you")
        for other, player in list(world.players.items()):
            known = News(player.number, other.identity, "joined", world.scores.get(other, 0))
            await line.send(known, name="news")
        world.players[line] = Player(number, WIDTH / 2, HEIGHT / 2)
        announce(line, "joined")
        try:
            async for _ in line:
                pass
        finally:
            announce(line, "left")
            for by_line in (world.players, world.moves, world.scores):
                by_line.pop(line, None)

    @server.on_datagram("move", Move)
    def moves(line: landline.Line, move: Move) -> None:
        world.moves[line] = move

    @server.on_state
    def changed(line: landline.Line, change: landline.StateChange) -> None:
        world.moves.pop(line, None)  # a player without a connection stands still

    async with server.listen(url, options=options) as endpoint:
        print(f"listening on {endpoint}; press Ctrl-C to stop", flush=True)
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        while True:
            if (winner := world.step()) is not None:
                announce(winner, "scored")
            state = State(world.tick, world.coin, list(world.players.values()))
            server.broadcast_datagram(state, name="state")
            await asyncio.sleep(started_at + world.tick / TICKS_PER_S - loop.time())


class Measurement:
    """Loss and delay of the states. Delays are relative to the fastest state so far, since clocks differ."""

    def __init__(self) -> None:
        self._least_delay_s: float | None = None
        self._newest = 0
        self.received = self.lost = self.too_late = 0
        self.ages_s: list[float] = []

    def receive(self, tick: int, now: float) -> bool:
        """Count a state. Return whether it is the newest: a later one may have overtaken it."""
        delay_s = now - tick / TICKS_PER_S
        self._least_delay_s = delay_s if self._least_delay_s is None else min(self._least_delay_s, delay_s)
        if self._newest >= tick:
            self.too_late += 1
            return False
        if self._newest:
            self.lost += tick - self._newest - 1
        self._newest = tick
        self.received += 1
        self.ages_s.append(delay_s - self._least_delay_s)
        return True

    def __str__(self) -> str:
        share = self.lost / max(1, self.received + self.lost)
        ages_ms = sorted(age * 1000 for age in self.ages_s) or [0.0]
        return (
            f"{self.received} states, {self.lost} lost ({share:.1%}), {self.too_late} overtaken; "
            f"age {ages_ms[len(ages_ms) // 2]:.1f} ms, at most {ages_ms[-1]:.1f} ms"
        )


async def play(url: str, name: str, is_bot: bool, options: landline.TransportOptions) -> None:
    measured = Measurement()
    me = 0
    names: dict[int, str] = {}
    scores: dict[int, int] = {}
    own = Move(0, 0)
    left = asyncio.Event()

    def changed(line: landline.Line, change: landline.StateChange) -> None:
        if line.is_closed:
            left.set()

    connector = landline.connect(
        url,
        identity=name,
        backoff=landline.Backoff(first_s=0.1, cap_s=2),
        on_state=changed,
        on_session_lost=start_new_game,
        options=options,
    )

    @connector.on("you", int)
    def begin(line: landline.Line, number: int) -> None:
        # The first game, or a new one after a restart of the server.
        nonlocal me, measured
        me, measured = number, Measurement()
        names.clear()
        scores.clear()

    @connector.on("news", News)
    def show_news(line: landline.Line, news: News) -> None:
        names[news.who], scores[news.who] = news.name, news.score
        if is_bot:
            print(f"{news.name} {news.what}{f', {news.score}' if news.what == 'scored' else ''}", flush=True)

    @connector.on_datagram("state", State)
    def receive_state(line: landline.Line, state: State) -> None:
        if not measured.receive(state.tick, asyncio.get_running_loop().time()):
            return
        move = own
        if is_bot:
            move = head_for_coin(state, me)
        elif state.tick % 3 == 0:
            draw(state, names, scores, measured)
        line.send_datagram(move, name="move")

    def press(key: str) -> None:
        own.right, own.down = {"a": (-1, 0), "d": (1, 0), "w": (0, -1), "s": (0, 1)}.get(key, (0, 0))
        if key == "q":
            left.set()

    async with connector as line:
        if not is_bot:
            with keys(press):
                await left.wait()
        while not left.is_set():
            await asyncio.sleep(1)
            print(measured, flush=True)
            measured.ages_s.clear()
    if line.error is not None:
        raise line.error


def head_for_coin(state: State, number: int) -> Move:
    me = next((player for player in state.players if player.number == number), None)
    if me is None:
        return Move(0, 0)
    x, y = state.coin[0] - me.x, state.coin[1] - me.y
    return Move((x > 0.5) - (x < -0.5), (y > 0.5) - (y < -0.5))


def draw(state: State, names: dict[int, str], scores: dict[int, int], measured: Measurement) -> None:
    field = [[" "] * WIDTH for _ in range(HEIGHT)]
    field[int(state.coin[1])][int(state.coin[0])] = "$"
    for player in state.players:
        field[int(player.y)][int(player.x)] = (names.get(player.number) or "?")[0]
    here = [player.number for player in state.players]
    table = ", ".join(f"{names.get(n, '?')} {scores.get(n, 0)}" for n in here)
    rows = ["+" + "-" * WIDTH + "+", *("|" + "".join(row) + "|" for row in field), "+" + "-" * WIDTH + "+"]
    shown = "\n".join([*rows, table, str(measured)])
    print("\x1b[H\x1b[J" + shown, flush=True)
    measured.ages_s.clear()


@contextmanager
def keys(press: Callable[[str], None]) -> Iterator[None]:
    """Call ``press`` with each key while the context is active."""
    import termios
    import tty

    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(0)
    tty.setcbreak(0)
    loop.add_reader(0, lambda: press(os.read(0, 1).decode(errors="replace")))
    try:
        yield
    finally:
        loop.remove_reader(0)
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def start_new_game(line: landline.Line, unconfirmed: tuple[landline.Unconfirmed, ...]) -> None:
    """Continue with a new session after a restart of the server."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Catch the coin: positions in datagrams, scores in messages."
    )
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="run the game until Ctrl-C")
    server.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    server.add_argument("--certificate", metavar="FILE", help="for quic://, as PEM")
    server.add_argument("--key", metavar="FILE", help="private key of the certificate, as PEM")
    player = roles.add_parser("play", help="play")
    player.add_argument(
        "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    player.add_argument(
        "--bot", action="store_true", help="play automatically; the default without a terminal"
    )
    player.add_argument("--ca", metavar="FILE", help="certificate authority of the server, as PEM")
    player.add_argument("name", metavar="NAME")
    given = parser.parse_args()
    is_bot = given.role == "play" and (given.bot or not (sys.stdin.isatty() and sys.stdout.isatty()))
    if given.role == "play" and not is_bot:
        # The log would overwrite the screen.
        logging.getLogger("landline").setLevel(logging.ERROR)
    try:
        if given.role == "server":
            options = landline.TransportOptions(
                certificate_file=given.certificate, private_key_file=given.key
            )
            landline.run(serve(given.listen, options))
        else:
            options = landline.TransportOptions(ca_file=given.ca)
            landline.run(play(given.server, given.name, is_bot, options))
    except (landline.LandlineError, OSError) as error:
        sys.exit(f"game.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
