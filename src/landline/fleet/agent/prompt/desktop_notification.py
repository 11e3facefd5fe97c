"""Shows one desktop notification to one person; a program that :func:`~.notices.send_notices` runs.

Standard input: a :class:`NotificationTask` in JSON. Exit status: 0 if the person's notification service accepted it;
otherwise 1, with the reason as the last line on standard error. Run as root, it first changes permanently to that
person's account, and only then connects: the message bus belongs to the person and is not trusted.

Modules are imported before that, as the person may not be able to read them.
"""

from __future__ import annotations

import asyncio
import html
import os
import sys
from typing import Any, Final

import msgspec
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusFastError

from landline.fleet.agent.prompt.notices import NotificationTask

SERVICE: Final = "org.freedesktop.Notifications"
PATH: Final = "/org/freedesktop/Notifications"

CRITICAL: Final = 2
"""The urgency that stays on the screen until the person closes it (Desktop Notifications Specification)."""

NEVER: Final = 0
"""The time-out of a notification that does not close by itself."""


class NotShown(Exception):
    """The notification was not accepted; the text is the reason."""


def main() -> int:
    """Read the task, change to the person's account, show the notification; return the exit status."""
    try:
        task = msgspec.json.decode(sys.stdin.buffer.read(), type=NotificationTask)
        become(task.uid, task.gid)
        asyncio.run(show(task))
    except (NotShown, OSError, EOFError, msgspec.DecodeError, DBusFastError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def become(uid: int, gid: int) -> None:
    """Change permanently to the account ``uid``. Raise :class:`PermissionError` if that is not allowed."""
    if os.geteuid() == 0 and uid != 0:
        os.setgroups([gid])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid):
        raise PermissionError(f"this process cannot run as the account {uid}")
    os.chdir("/")


async def show(task: NotificationTask) -> None:
    """Connect to the person's message bus and show the notification. Raise :class:`NotShown`."""
    bus = await MessageBus(task.address).connect()
    try:
        # Some services show the body unchanged, others parse it as a subset of HTML.
        capabilities = await call(bus, "GetCapabilities", "", [])
        body = html.escape(task.body, quote=False) if "body-markup" in capabilities[0] else task.body
        hints = {"urgency": Variant("y", CRITICAL), "category": Variant("s", "device")}
        arguments = ["landline", 0, "dialog-warning", task.summary, body, [], hints, NEVER]
        await call(bus, "Notify", "susssasa{sv}i", arguments)
    finally:
        bus.disconnect()


async def call(bus: MessageBus, member: str, signature: str, body: list[Any]) -> list[Any]:
    """Call the notification service and return its answer. Raise :class:`NotShown` for an error."""
    request = Message(
        destination=SERVICE,
        path=PATH,
        interface=SERVICE,
        member=member,
        signature=signature,
        body=body,
    )
    reply = await bus.call(request)
    if reply is None:
        raise NotShown("the message bus closed the connection")
    if reply.message_type is MessageType.ERROR:
        raise NotShown(str(reply.body[0]) if reply.body else reply.error_name)
    return list(reply.body)


if __name__ == "__main__":
    sys.exit(main())
