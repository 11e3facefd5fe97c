"""Lines in a FastAPI application: a web page, a REST route that sends to machines, and the machines, on one port.

    python examples/fastapi_app.py serve            # http://127.0.0.1:8000
    python examples/fastapi_app.py join kiosk-1     # a machine; start any number
    curl -d '{"text": "lunch"}' -H 'content-type: application/json' http://127.0.0.1:8000/announcements

The page shows for each machine whether it is online, reconnecting or gone, since when and why. An announcement reaches
a reconnecting machine when it is back. Needs FastAPI, uvicorn and `landline[ws]`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Annotated

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.routing import WebSocketRoute

import landline

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Machines</title>
<h1>Machines</h1>
<form><input name="text" maxlength="500" required placeholder="Announcement"> <button>Send</button></form>
<p role="status"></p><ul></ul>
<script>
  const [form, list, status] = ["form", "ul", "p"].map(name => document.querySelector(name));
  form.onsubmit = async event => {
    event.preventDefault();
    const headers = {"content-type": "application/json"};
    const body = JSON.stringify({text: form.text.value});
    const response = await fetch("announcements", {method: "POST", headers, body});
    status.textContent = response.ok
      ? `Sent to ${(await response.json()).sent} machines.`
      : `Refused (${response.status}).`;
  };
  async function refresh() {
    const machines = await (await fetch("machines")).json();
    list.replaceChildren(...machines.map(({name, state, detail, since_s}) => {
      const item = document.createElement("li");
      item.textContent = `${name}: ${state} for ${Math.round(since_s)} s ${detail}`;
      return item;
    }));
  }
  setInterval(() => refresh().catch(error => status.textContent = error), 1000);
</script>
"""


class Announcement(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=500)]


class Sent(BaseModel):
    sent: int


class Machine(BaseModel):
    name: str
    state: str
    detail: str
    since_s: float


def make_app() -> FastAPI:
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=5, timeout_s=2))
    names: set[str] = set()

    @server.identities.on_change
    def changed(name: str, info: landline.IdentityStatus) -> None:
        names.add(name)

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        yield
        # A mounted application gets no shutdown event, so close the lines here.
        await server.close()

    app = FastAPI(title="Machines", lifespan=live)
    line = landline.asgi(server)
    app.router.routes.append(WebSocketRoute("/line", line))
    app.mount("/line", line)  # ws://…/line/, with the slash

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return PAGE

    @app.get("/machines")
    async def machines() -> list[Machine]:
        known = {name: info for name in sorted(names) if (info := server.identities.status(name)) is not None}
        names.intersection_update(known)  # remove the machines that left long ago
        return [
            Machine(name=name, state=info.state, detail=info.detail, since_s=monotonic() - info.since_at)
            for name, info in known.items()
        ]

    @app.post("/announcements")
    async def announce(announcement: Announcement) -> Sent:
        result = server.broadcast(announcement.text, name="announcement")
        return Sent(sent=result.sent)

    return app


async def join(url: str, name: str) -> None:
    def changed(line: landline.Line, change: landline.StateChange) -> None:
        print(f"-- {change.state}", flush=True)

    backoff = landline.Backoff(first_s=0.2, cap_s=5)
    connector = landline.connect(url, identity=name, backoff=backoff, on_state=changed)

    @connector.on("announcement", str)
    def announced(line: landline.Line, text: str) -> None:
        print(f"announcement: {text}", flush=True)

    async with connector as line:
        async for _ in line:
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description="A web application that also serves lines.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("serve", help="serve until Ctrl-C")
    server.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    server.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    machine = roles.add_parser("join", help="be a machine until Ctrl-C")
    machine.add_argument(
        "--server", metavar="URL", default="ws://127.0.0.1:8000/line", help="default: %(default)s"
    )
    machine.add_argument("name", metavar="NAME")
    given = parser.parse_args()
    try:
        if given.role == "serve":
            uvicorn.run(make_app(), host=given.host, port=given.port, log_level="warning")
        else:
            landline.run(join(given.server, given.name))
    except (landline.LandlineError, OSError) as error:
        sys.exit(f"fastapi_app.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
