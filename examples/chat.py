"""A chat room in the terminal. Everyone is on one line each; what is written while a cable is out arrives later.

    python examples/chat.py server
    python examples/chat.py join alice          # in a second terminal
    python examples/chat.py join bob            # in a third

`/who` says who is here, `/quit` or Ctrl-D leaves. The server tells everybody who joins, leaves, is away (their network
is gone, their session is kept) and is back. Input and output may be pipes.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import msgspec

import landline

NICKNAME = re.compile(r"[\w.-]{1,20}")
TEXT_SIGNS_MAX = 500
OTHER_KEYS = re.compile(r"\x1b(\[[0-9;]*[A-Za-z~]|O[A-Z])")
"""Arrows and whatever else this small editor does not know, as terminals send them."""


class News(msgspec.Struct):
    who: str
    what: str


async def serve(url: str) -> None:
    # A member whose network is gone is away after 3 s at the latest, and has left when not back after 2 minutes.
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=2, timeout_s=1), resume_window_s=120)
    room = server.group("room")
    away: set[landline.Line] = set()

    def tell(who: landline.Line, what: str) -> None:
        # Whoever lets 32,768 messages wait is disconnected, rather than shown a conversation with holes.
        room.broadcast(News(who.identity, what), name="news", overflow=landline.OverflowPolicy.DISCONNECT)

    @server.on_line
    async def member(line: landline.Line) -> None:
        # One call for a member's whole stay, however many connections that takes.
        if not NICKNAME.fullmatch(line.identity):
            await line.close(
                landline.Code.FORBIDDEN, "a nickname has 1 to 20 letters, digits, dots or dashes"
            )
            return
        for other in room:
            if other.identity == line.identity:
                if other.state is landline.LineState.ONLINE:
                    await line.close(landline.Code.FORBIDDEN, f"{line.identity} is here already")
                    return
                other.abort(landline.Code.REPLACED, "the same person has joined again")
        room.add(line)
        tell(line, "joined")
        try:
            async for text in line:
                if isinstance(text, str) and 0 < len(text) <= TEXT_SIGNS_MAX:
                    tell(line, f"says: {text}")
        finally:
            room.discard(line)
            away.discard(line)
            tell(line, "left")

    @server.on_state
    def changed(line: landline.Line, change: landline.StateChange) -> None:
        if change.state is landline.LineState.RECONNECTING and line in room:
            away.add(line)
            tell(line, f"is away ({change.cause})")
        elif change.state is landline.LineState.ONLINE and line in away:
            away.remove(line)
            tell(line, "is back")

    @server.on("who")
    def who(line: landline.Line, nothing: object) -> list[str]:
        return [other.identity + (" (away)" if other in away else "") for other in room]

    async with server.listen(url) as endpoint:
        print(f"listening on {endpoint}; Ctrl-C stops it", flush=True)
        await server.serve_forever()


async def join(url: str, nickname: str) -> None:
    screen = Screen(nickname)

    def changed(line: landline.Line, change: landline.StateChange) -> None:
        screen.status = change.state.value
        if change.state is landline.LineState.RECONNECTING:
            screen.show(f"-- {change.detail}; what you write is sent later")
        elif change.state is landline.LineState.ONLINE:
            screen.show("-- online" + (", nothing was lost" if change.epoch > 1 else ""))
        elif change.state is landline.LineState.CLOSED:
            screen.end()

    def lost(line: landline.Line, unconfirmed: tuple[landline.Unconfirmed, ...]) -> None:
        for message in unconfirmed:
            screen.show(f"-- may not have arrived, the server was restarted: {message.value}")

    connector = landline.connect(
        url, identity=nickname, backoff=landline.Backoff(cap_s=5), on_state=changed, on_session_lost=lost
    )

    @connector.on("news", News)
    def show(line: landline.Line, news: News) -> None:
        screen.show(f"{news.who} {news.what}")

    with screen.typing():
        async with connector as line:
            async for text in screen.lines():
                if text == "/quit":
                    break
                if text == "/who":
                    try:
                        names = await line.request("who", timeout=5, response_type=list[str])
                        screen.show(f"-- here: {', '.join(names)}")
                    except landline.RequestError as error:
                        screen.show(f"-- {error.message}")
                elif text:
                    await line.send(text[:TEXT_SIGNS_MAX])
        if line.error is not None:
            raise line.error


class Screen:
    """The conversation, and below it what is being typed. Where input or output is no terminal: plain lines."""

    def __init__(self, nickname: str) -> None:
        self.status = "connecting"
        self._nickname = nickname
        self._is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._typed = ""
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()

    def show(self, text: str) -> None:
        # What others wrote may hold control characters, which terminals obey.
        clean = "".join(sign if sign.isprintable() else "?" for sign in text)
        print(f"\r\x1b[K{clean}" if self._is_terminal else clean, flush=True)
        self._draw()

    def end(self) -> None:
        self._lines.put_nowait(None)

    async def lines(self) -> AsyncIterator[str]:
        while (text := await self._lines.get()) is not None:
            yield text

    @contextmanager
    def typing(self) -> Iterator[None]:
        """Reads the keyboard while it is entered, key by key where it is a terminal."""
        # No event loop can wait for every kind of standard input, and a thread that reads cannot be ended: a daemon.
        threading.Thread(target=self._read, args=(asyncio.get_running_loop(),), daemon=True).start()
        if not self._is_terminal:
            yield
            return
        import termios
        import tty

        before = termios.tcgetattr(0)
        tty.setcbreak(0)
        try:
            yield
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
            print("\r\x1b[K", end="", flush=True)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        with suppress(RuntimeError):  # the loop was closed while we were reading
            while data := os.read(0, 4096):
                loop.call_soon_threadsafe(self._receive, decode(data))
            loop.call_soon_threadsafe(self.end)

    def _receive(self, keys: str) -> None:
        for key in OTHER_KEYS.sub("", keys):
            if key in "\r\n":
                self._lines.put_nowait(self._typed.strip())
                self._typed = ""
            elif key in "\x7f\b":
                self._typed = self._typed[:-1]
            elif key == "\x15":  # Ctrl-U
                self._typed = ""
            elif key == "\x04":  # Ctrl-D
                self.end()
            elif key.isprintable():
                self._typed += key
        self._draw()

    def _draw(self) -> None:
        if self._is_terminal:
            prompt = f"[{self.status}] {self._nickname}> "
            room = max(1, shutil.get_terminal_size().columns - len(prompt) - 1)
            print(f"\r\x1b[K{prompt}{self._typed[-room:]}", end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat room that survives its network.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="hold the room open until Ctrl-C")
    server.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    member = roles.add_parser("join", help="join the room")
    member.add_argument(
        "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    member.add_argument("nickname", metavar="NICKNAME")
    given = parser.parse_args()
    # The screen says what the log would.
    logging.getLogger("landline").setLevel(logging.ERROR)
    try:
        landline.run(serve(given.listen) if given.role == "server" else join(given.server, given.nickname))
    except (landline.LandlineError, OSError) as error:
        sys.exit(f"chat.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
