"""The HTTP API: :class:`landline.fleet.api.Operations` published under ``/api/v1``, with its OpenAPI
description.

Every error answer is a :class:`landline.fleet.api.Problem`. ``/api/v1/openapi.json`` describes the API with
the same structs that the handlers take and return.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set
from typing import Annotated, Any, Final

import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import CacheControlHeader
from litestar.di import NamedDependency, Provide
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, JSONBody, QueryParameter, SkipValidation
from litestar.response import Stream
from litestar.types import ASGIApp, Receive, Scope, Send

from landline import guarded_logger, safe_text
from landline.fleet.api import (
    REQUEST_ID_CHARACTERS_MAX,
    CancelRequest,
    JobRequest,
    JobView,
    Operations,
    Preview,
    PreviewRequest,
    Problem,
    ServerStatus,
    Update,
)
from landline.fleet.model import Machine
from landline.fleet.web.auth import refusal
from landline.fleet.web.errors import ANSWER_UNAVAILABLE, STORAGE_FAILURE, RequestRefused, describe
from landline.fleet.web.sse import KEEP_ALIVE_S, event_stream

BODY_BYTES_MAX: Final = 64 * 1024
"""The largest request body, except for :data:`JOB_BODY_BYTES_MAX`."""

JOB_BODY_BYTES_MAX: Final = 1024 * 1024
"""The largest body of a job request: a list of about 20,000 machines."""

JOBS_MAX: Final = 1000
"""The most jobs in one answer."""

logger: Final = guarded_logger(__name__)

Ops = NamedDependency[SkipValidation[Operations]]


class Streaming(msgspec.Struct, frozen=True):
    """When update streams end, and how often they send a comment."""

    closing: asyncio.Event
    keep_alive_s: float


def build_app(
    operations: Operations,
    *,
    token: str | None,
    allowed_hosts: Set[str] = frozenset(),
    closing: asyncio.Event | None = None,
    keep_alive_s: float = KEEP_ALIVE_S,
    log: logging.Logger = logger,
) -> Litestar:
    """Return the application that publishes ``operations``.

    Unexpected exceptions are logged and answered with 500.

    :param token: the bearer token that every request must carry. With a token, requests from pages of other sites are
        refused too, and those under host names other than ``allowed_hosts``, ``localhost`` and IP addresses. ``None``
        is for a unix socket only: any process that may open it may do everything.
    :param allowed_hosts: host names in lower case.
    :param closing: ends the update streams when it is set.
    """
    if token is not None and not token.strip():
        raise ValueError("The token is empty; give a random one.")
    streaming = Streaming(closing or asyncio.Event(), keep_alive_s)

    def answer(request: Request[Any, Any, Any], exception: Exception) -> Response[Problem]:
        status, problem = describe(exception)
        if status >= 500:
            # The client chose the path, which may contain line ends.
            asked = f"{request.method} {safe_text(request.url.path)}"
            if problem in {STORAGE_FAILURE, ANSWER_UNAVAILABLE}:
                log.error("%s: %s", asked, exception)
            else:
                log.error("%s failed", asked, exc_info=exception)
        return Response(problem, status_code=status, media_type="application/json")

    return Litestar(
        [status, machines, resolve_machine, preview, create_job, jobs, job, cancel_job, updates, openapi],
        path="/api/v1",
        dependencies={
            "operations": Provide(lambda: operations, sync_to_thread=False),
            "streaming": Provide(lambda: streaming, sync_to_thread=False),
        },
        request_class=_Request,
        middleware=[] if token is None else [_guard(token, allowed_hosts)],
        exception_handlers={Exception: answer},
        # Answers show the current state; a cached one would be wrong.
        cache_control=CacheControlHeader(no_store=True),
        request_max_body_size=BODY_BYTES_MAX,
        openapi_config=OpenAPIConfig(
            title="landline control server",
            version="1",
            # Litestar answers every other request below this path with an HTML page, so it gets a path of its own.
            path="/schema",
            render_plugins=[JsonRenderPlugin()],
        ),
        logging_config=None,
        debug=False,
    )


class _Request(Request[Any, Any, Any]):
    """A request whose body may be nested too deeply."""

    async def json(self) -> Any:
        try:
            return await super().json()
        except RecursionError as error:
            raise RequestRefused(
                400, "bad_request", "The request body is nested too deeply; send one flat JSON object."
            ) from error


def _guard(token: str, allowed_hosts: Set[str]) -> Any:
    def middleware(app: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            refused = refusal(scope["headers"], token=token, allowed_hosts=allowed_hosts)
            if refused is not None:
                raise refused
            await app(scope, receive, send)

        return guarded

    return middleware


def _problems(*statuses: int) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(
            Problem, generate_examples=False, description="The request was refused; nothing was done."
        )
        for status in statuses
    }


@get("/status", operation_id="status", responses=_problems(401, 403))
async def status(operations: Ops) -> ServerStatus:
    """The state of the control server."""
    return operations.status()


@get("/machines", operation_id="machines", responses=_problems(401, 403))
async def machines(operations: Ops) -> tuple[Machine, ...]:
    """All known machines in order of name."""
    return operations.machines()


@post(
    "/machines/{name:str}/resolve",
    operation_id="resolve_machine",
    status_code=200,
    responses=_problems(401, 403, 404, 409),
)
async def resolve_machine(operations: Ops, name: FromPath[str]) -> Machine:
    """End the mark of a cloned identity. Refused while several machines with it are connected."""
    return await operations.resolve_machine(name)


@post("/jobs/preview", operation_id="preview", status_code=200, responses=_problems(400, 401, 403, 404, 413))
async def preview(operations: Ops, data: JSONBody[PreviewRequest]) -> Preview:
    """The machines that the targets match now. Nothing is sent to them."""
    return operations.preview(data)


@post(
    "/jobs",
    operation_id="create_job",
    request_max_body_size=JOB_BODY_BYTES_MAX,
    responses=_problems(400, 401, 403, 404, 409, 413),
)
async def create_job(operations: Ops, data: JSONBody[JobRequest]) -> JobView:
    """Accept a job. It is on disk when this answers. A repeated request with its ``request_id`` gets the same job."""
    return await operations.create_job(data)


@get("/jobs", operation_id="jobs", responses=_problems(400, 401, 403))
async def jobs(
    operations: Ops,
    limit: Annotated[int, QueryParameter(ge=1, le=JOBS_MAX)] = 50,
    request_id: Annotated[str | None, QueryParameter(max_length=REQUEST_ID_CHARACTERS_MAX)] = None,
) -> tuple[JobView, ...]:
    """The newest jobs, newest first; with ``request_id``, only the job accepted for it, if any."""
    return await operations.jobs(limit, request_id)


@get("/jobs/{job_id:str}", operation_id="job", responses=_problems(401, 403, 404, 409))
async def job(operations: Ops, job_id: FromPath[str]) -> JobView:
    """One job with its events. The id may be any prefix that matches only one job."""
    return await operations.job(job_id)


@post(
    "/jobs/{job_id:str}/cancel",
    operation_id="cancel_job",
    status_code=200,
    responses=_problems(400, 401, 403, 404, 409, 413),
)
async def cancel_job(operations: Ops, job_id: FromPath[str], data: JSONBody[CancelRequest]) -> JobView:
    """Cancel the executions that have not started; the others continue."""
    return await operations.cancel_job(job_id, data)


@get(
    "/updates",
    operation_id="updates",
    media_type="text/event-stream",
    responses={
        200: ResponseSpec(
            Update,
            generate_examples=False,
            media_type="text/event-stream",
            description="Server-sent events, each one Update; a comment at least every 10 s.",
        )
    }
    | _problems(401, 403),
)
async def updates(operations: Ops, streaming: NamedDependency[SkipValidation[Streaming]]) -> Stream:
    """A snapshot, then every change, until the client or the server closes the stream."""
    stream = event_stream(
        operations.updates(), closing=streaming.closing, keep_alive_s=streaming.keep_alive_s
    )
    return Stream(stream, media_type="text/event-stream")


@get("/openapi.json", media_type="application/vnd.oai.openapi+json", include_in_schema=False)
async def openapi(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The OpenAPI description of this API."""
    return request.app.openapi_schema.to_schema()
