"""A chat room in the terminal. Each member has one line; messages written while the network is down arrive later.

    python examples/chat.py server
    python examples/chat.py join alice          # in a second terminal
    python examples/chat.py join bob            # in a third

`/who` lists the members, `/quit` or Ctrl-D leaves. The server announces who joins, leaves, is away (the connection is
lost, the session is kept) and is back. Input and output may be pipes.
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
TEXT_CHARS_MAX = 500
OTHER_KEYS = re.compile(r"\x1b(\[[0-9;]*[A-Za-z~]|O[A-Z])")
"""Escape sequences of arrow keys and other keys that this small editor does not support."""


class News(msgspec.Struct):
    who: str
    what: str


async def serve(url: str) -> None:
    # A member whose connection is lost is away within 3 s, and has left after 2 minutes.
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=2, timeout_s=1), resume_window_s=120)
    room = server.group("room")
    away: set[landline.Line] = set()

    def announce(who: landline.Line, what: str) -> None:
        # A member with 32,768 pending messages is disconnected, so that no member sees an incomplete conversation.
        room.broadcast(News(who.identity, what), name="news", overflow=landline.OverflowPolicy.DISCONNECT)

    @server.on_line
    async def member(line: landline.Line) -> None:
        # Runs once per session, over any number of connections.
        if not NICKNAME.fullmatch(line.identity):
            await line.close(
                landline.Code.FORBIDDEN, "a nickname has 1 to 20 letters, digits, dots or dashes"
            )
            return
        for other in room:
            if other.identity == line.identity:
                if other.state is landline.LineState.ONLINE:
                    await line.close(landline.Code.FORBIDDEN, f"the nickname {line.identity} is in use")
                    return
                other.abort(landline.Code.REPLACED, "replaced by a new session of the same member")
        room.add(line)
        announce(line, "joined")
        try:
            async for text in line:
                if isinstance(text, str) and 0 < len(text) <= TEXT_CHARS_MAX:
                    announce(line, f"says: {text}")
        finally:
            room.discard(line)
            away.discard(line)
            announce(line, "left")

    @server.on_state
    def changed(line: landline.Line, change: landline.StateChange) -> None:
        if change.state is landline.LineState.RECONNECTING and line in room:
            away.add(line)
            announce(line, f"is away ({change.cause})")
        elif change.state is landline.LineState.ONLINE and line in away:
            away.remove(line)
            announce(line, "is back")

    @server.on("who")
    def who(line: landline.Line, nothing: object) -> list[str]:
        return [other.identity + (" (away)" if other in away else "") for other in room]

    async with server.listen(url) as endpoint:
        print(f"listening on {endpoint}; press Ctrl-C to stop", flush=True)
        await server.serve_forever()


async def join(url: str, nickname: str) -> None:
    screen = Screen(nickname)

    def changed(line: landline.Line, change: landline.StateChange) -> None:
        screen.status = change.state.value
        if change.state is landline.LineState.RECONNECTING:
            screen.show(f"-- {change.detail}; messages are sent later")
        elif change.state is landline.LineState.ONLINE:
            screen.show("-- online" + (", session resumed" if change.epoch > 1 else ""))
        elif change.state is landline.LineState.CLOSED:
            screen.end()

    def lost(line: landline.Line, unconfirmed: tuple[landline.Unconfirmed, ...]) -> None:
        for message in unconfirmed:
            screen.show(f"-- the session was lost; may not have arrived: {message.value}")

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
                        screen.show(f"-- members: {', '.join(names)}")
                    except landline.RequestError as error:
                        screen.show(f"-- {error.message}")
                elif text:
                    await line.send(text[:TEXT_CHARS_MAX])
        if line.error is not None:
            raise line.error


class Screen:
    """Shows the conversation, and below it the input line. Without a terminal it reads and prints plain lines."""

    def __init__(self, nickname: str) -> None:
        self.status = "connecting"
        self._nickname = nickname
        self._is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._typed = ""
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()

    def show(self, text: str) -> None:
        # Text of other members may contain control sequences for the terminal.
        clean = "".join(char if char.isprintable() else "?" for char in text)
        print(f"\r\x1b[K{clean}" if self._is_terminal else clean, flush=True)
        self._draw()

    def end(self) -> None:
        self._lines.put_nowait(None)

    async def lines(self) -> AsyncIterator[str]:
        while (text := await self._lines.get()) is not None:
            yield text

    @contextmanager
    def typing(self) -> Iterator[None]:
        """Read the keyboard while the context is active, key by key on a terminal."""
        # No event loop can wait for every kind of standard input, so a thread reads it. It cannot be ended: a daemon.
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
        with suppress(RuntimeError):  # the loop was closed during a read
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
            width = max(1, shutil.get_terminal_size().columns - len(prompt) - 1)
            print(f"\r\x1b[K{prompt}{self._typed[-width:]}", end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat room that survives lost connections.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="serve the room until Ctrl-C")
    server.add_argument(
        "--listen", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    member = roles.add_parser("join", help="join the room")
    member.add_argument(
        "--server", metavar="URL", default="tcp://127.0.0.1:5463", help="default: %(default)s"
    )
    member.add_argument("nickname", metavar="NICKNAME")
    given = parser.parse_args()
    # The screen shows the states; the log would repeat them.
    logging.getLogger("landline").setLevel(logging.ERROR)
    try:
        landline.run(serve(given.listen) if given.role == "server" else join(given.server, given.nickname))
    except (landline.LandlineError, OSError) as error:
        sys.exit(f"chat.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
