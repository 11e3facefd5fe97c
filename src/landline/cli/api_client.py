"""The client of the control server's HTTP API, over a unix socket or TCP."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from landline.cli.exit_codes import NO_SERVER, WRONG_USE, CommandFailed, WrongUse, sentence
from landline.cli.retry import ConnectionBroken, Refused, Retries, ServerUnreachable
from landline.cli.sse_parser import EventTooLarge, event_data
from landline.cli.terminal_text import printable
from landline.fleet.api import (
    CancelRequest,
    JobRequest,
    JobView,
    Preview,
    PreviewRequest,
    Problem,
    ServerStatus,
    Update,
)
from landline.fleet.model import Machine
from landline.fleet.paths import is_there

if TYPE_CHECKING:
    from http.client import HTTPResponse

SILENCE_S_MAX: Final = 25.0
"""How long an update stream may be silent: the server sends a byte every 10 s."""

SERVICE_UNAVAILABLE: Final = 503

_T = TypeVar("_T")


class ServerAddress(NamedTuple):
    """The address of a control server: a unix socket, or a host and port."""

    unix_path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix://{self.unix_path}"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


class NoServer(ServerUnreachable):
    """No connection could be made; nothing was sent."""

    def __init__(self, address: ServerAddress, looked_at: Sequence[Path] = ()) -> None:
        where = f"at {address}"
        if len(looked_at) > 1 and not any(map(is_there, looked_at)):
            *first, last = looked_at
            where = f"on this machine (at {', '.join(map(str, first))} or {last})"
        super().__init__(
            f"No control server answers {where}",
            "start one with 'landline demo' or 'landline serve', or name its address with --server",
            may_have_arrived=False,
        )


def parse_server(url: str) -> ServerAddress:
    """Return the address in ``unix:///path`` or ``http://host:port``. Raise :class:`WrongUse`."""
    wrong = WrongUse(f"--server takes unix:///path or http://host:port, not '{printable(url)}'.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise wrong from error
    if parts.query or parts.fragment or parts.username is not None:
        raise wrong
    if parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1:
        return ServerAddress(unix_path=parts.path)
    if parts.scheme == "http" and parts.hostname and port and parts.path in {"", "/"}:
        return ServerAddress(host=parts.hostname, port=port)
    raise wrong


class ApiClient:
    """A client of one control server. Every request has its own connection, and is repeated as ``retries`` says.

    Every method raises :class:`NoServer` when no server answers, :class:`ServerUnreachable` when it goes away or its
    answer is not one of a control server, and :class:`Refused` when it refuses. Methods that change something raise
    :class:`landline.cli.retry.AnswerLost` when the change may have been made.

    :param looked_at: where a server was searched for; named in the error when there is none.
    """

    def __init__(
        self,
        address: ServerAddress,
        token: str | None = None,
        retries: Retries | None = None,
        *,
        looked_at: Sequence[Path] = (),
    ) -> None:
        self.address = address
        self._looked_at = looked_at
        self._token = token
        self._retries = retries or Retries()

    def status(self) -> ServerStatus:
        """Return the status of the server."""
        return self._read("GET", "/status", ServerStatus)

    def machines(self) -> tuple[Machine, ...]:
        """Return every known machine, in order of name."""
        return self._read("GET", "/machines", tuple[Machine, ...])

    def resolve_machine(self, name: str) -> Machine:
        """Remove the mark that a machine's identity is cloned, and return the machine."""
        path = f"/machines/{quote(name, safe='')}/resolve"
        try:
            return self._retries.change(
                lambda timeout_s: self._ask("POST", path, Machine, None, timeout_s),
                what=f"machine {printable(name)}",
                outcome="The mark may have been removed; 'landline ls' shows whether it was.",
            )
        except Refused as refused:
            if refused.code != "not_cloned" or not refused.follows_lost_answer:
                raise
            # The earlier request, whose answer was lost, has removed it.
            return next(machine for machine in self.machines() if machine.name == name)

    def preview(self, request: PreviewRequest) -> Preview:
        """Return the machines that the targets match now."""
        return self._read("POST", "/jobs/preview", Preview, request)

    def create_job(self, request: JobRequest) -> JobView:
        """Send a job, and send it again when the answer is lost.

        ``request_id`` must be set: by it the server recognises a job that it has accepted already.
        """
        if request.request_id is None:
            raise ValueError("a job that may be sent twice needs a request_id")
        return self._retries.change(
            lambda timeout_s: self._ask("POST", "/jobs", JobView, request, timeout_s),
            what=f"the job (request {request.request_id})",
            outcome=f"The job may have been accepted and may run; 'landline jobs --request {request.request_id}' "
            "shows whether it was. Check before you send another.",
        )

    def jobs(self, limit: int) -> tuple[JobView, ...]:
        """Return the newest jobs, newest first."""
        return self._read("GET", f"/jobs?limit={limit}", tuple[JobView, ...])

    def job_of_request(self, request_id: str) -> JobView | None:
        """Return the job that was accepted for a request, with its events; ``None`` when there is none."""
        path = f"/jobs?request_id={quote(request_id, safe='')}"
        for view in self._read("GET", path, tuple[JobView, ...]):
            return self.job(view.job.id)
        return None

    def job(self, job_id: str) -> JobView:
        """Return one job with its events."""
        return self._read("GET", f"/jobs/{quote(job_id, safe='')}", JobView)

    def cancel_job(self, job_id: str, request: CancelRequest) -> JobView:
        """Cancel what has not started of a job. Takes the whole id: a prefix may mean another job a moment later."""
        path = f"/jobs/{quote(job_id, safe='')}/cancel"
        return self._retries.change(
            lambda timeout_s: self._ask("POST", path, JobView, request, timeout_s),
            what=f"the cancellation of job {printable(job_id)}",
            outcome=f"The job may have been cancelled; 'landline jobs {printable(job_id)}' shows whether it was.",
        )

    def updates(self) -> Generator[Update, None, None]:
        """Yield a snapshot, then every change as it happens. Ends only with an exception; close it after use."""
        with self._exchange("GET", "/updates", None, SILENCE_S_MAX) as response:
            for data in event_data(iter(response.readline, b"")):
                yield msgspec.json.decode(data, type=Update)
        raise self._went_away()

    def _read(self, method: str, path: str, answer: type[_T], body: Any = None) -> _T:
        return self._retries.read(lambda timeout_s: self._ask(method, path, answer, body, timeout_s))

    def _ask(self, method: str, path: str, answer: type[_T], body: Any, timeout_s: float) -> _T:
        with self._exchange(method, path, body, timeout_s) as response:
            return msgspec.json.decode(response.read(), type=answer)

    @contextlib.contextmanager
    def _exchange(self, method: str, path: str, body: Any, timeout_s: float) -> Iterator[HTTPResponse]:
        """Send a request, and give its response while the context is open. Every failure becomes a sentence."""
        # Imported here: it would be a large part of the time that --help takes.
        from http.client import HTTPException, IncompleteRead

        from landline.cli.socket_owner import Untrusted
        from landline.cli.unix_http import ApiConnection

        connection = ApiConnection(
            self.address.unix_path, self.address.host, self.address.port, timeout_s=timeout_s
        )
        headers = {"Content-Type": "application/json"}
        if self._token is not None and not self.address.unix_path:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            try:
                connection.connect()
            except Untrusted as error:
                raise ServerUnreachable(
                    f"The control server at {self.address} is not trusted: {error}; nothing was sent",
                    "name your own server with --server, or run this command as the user of that one",
                    may_have_arrived=False,
                ) from error
            except PermissionError as error:
                raise ServerUnreachable(
                    f"The control server at {self.address} belongs to another user",
                    "name another server with --server",
                    may_have_arrived=False,
                ) from error
            except OSError as error:
                raise NoServer(self.address, self._looked_at) from error
            content = None if body is None else msgspec.json.encode(body)
            connection.request(method, f"/api/v1{path}", content, headers)
            response = connection.getresponse()
            if response.status >= 300:
                raise self._refusal(response)
            yield response
        except TimeoutError as error:
            raise ServerUnreachable(
                f"The control server at {self.address} did not answer within {timeout_s:g} s",
                "try again, or read its log",
            ) from error
        except OSError as error:  # RemoteDisconnected is one, too.
            raise self._went_away() from error
        except IncompleteRead as error:
            raise self._went_away() from error
        except (HTTPException, msgspec.MsgspecError, EventTooLarge) as error:
            raise self._not_a_control_server() from error
        finally:
            connection.close()

    def _refusal(self, response: HTTPResponse) -> CommandFailed:
        try:
            problem = msgspec.json.decode(response.read(), type=Problem)
        except msgspec.MsgspecError:
            if response.status == SERVICE_UNAVAILABLE:
                return ServerUnreachable(
                    f"The control server at {self.address} has too many connections", "try again later"
                )
            return self._not_a_control_server()
        if problem.code == "unauthorized":
            problem = Problem(
                code=problem.code,
                message=f"The control server at {self.address} {self._token_problem()}; give the operators' token "
                "with --token-file or LANDLINE_TOKEN.",
            )
        status = NO_SERVER if response.status >= 500 else WRONG_USE
        return Refused(sentence(problem.message), status, problem.code)

    def _token_problem(self) -> str:
        return "needs a token" if self._token is None else "does not accept this token"

    def _went_away(self) -> ServerUnreachable:
        return ConnectionBroken(
            f"The control server at {self.address} went away", "try again, or read its log"
        )

    def _not_a_control_server(self) -> ServerUnreachable:
        return ServerUnreachable(
            f"The server at {self.address} does not answer as the API of a landline control server of this version",
            "check the address: it is the one of 'landline serve --http', not the one where agents connect",
        )
