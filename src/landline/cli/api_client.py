"""The control server as the command line sees it: the operations over HTTP, on a unix socket or on TCP."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from landline.cli.exit_codes import NO_SERVER, WRONG_USE, CommandFailed, WrongUse
from landline.cli.retry import ConnectionBroke, Refused, Retries, ServerGone
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
"""How long an update stream may say nothing: the server sends a byte every 10 s."""

SERVICE_UNAVAILABLE: Final = 503

_T = TypeVar("_T")


class ServerAddress(NamedTuple):
    """Where a control server answers: a unix socket, or a host and port."""

    unix_path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix://{self.unix_path}"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


class NobodyAnswers(ServerGone):
    """No connection could be made: nothing was sent."""

    def __init__(self, address: ServerAddress, looked_at: Sequence[Path] = ()) -> None:
        where = f"at {address}"
        if len(looked_at) > 1 and not any(map(is_there, looked_at)):
            *first, last = looked_at
            where = f"on this machine (looked for {', '.join(map(str, first))} and {last})"
        super().__init__(
            f"No control server answers {where}",
            "start one with 'landline demo' or 'landline serve', or name another with --server",
            may_have_arrived=False,
        )


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def parse_server(url: str) -> ServerAddress:
    """The address in ``unix:///path`` or ``http://host:port``. Raises :class:`WrongUse`."""
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
    """Asks one control server. Every request opens a connection of its own, and is repeated as ``retries`` says.

    ``looked_at`` are the sockets where it was looked for, for the sentence when there is none.

    All raise :class:`NobodyAnswers` when there is no server, :class:`ServerGone` when it goes away or says
    something that is no answer, and :class:`Refused` when it refuses. Those that change something raise
    :class:`landline.cli.retry.OutcomeUnknown` when the change may have been made.
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
        """What the server says of itself."""
        return self._read("GET", "/status", ServerStatus)

    def machines(self) -> tuple[Machine, ...]:
        """Every machine known, in order of name."""
        return self._read("GET", "/machines", tuple[Machine, ...])

    def resolve_machine(self, name: str) -> Machine:
        """End the mark that a machine's identity is cloned."""
        path = f"/machines/{quote(name, safe='')}/resolve"
        try:
            return self._retries.change(
                lambda timeout_s: self._ask("POST", path, Machine, None, timeout_s),
                what=f"ending the mark of {printable(name)}",
                outcome="The mark may have been ended; 'landline ls' shows whether it was.",
            )
        except Refused as refused:
            if refused.code != "not_cloned" or not refused.follows_lost_answer:
                raise
            # The request whose answer was lost has done it.
            return next(machine for machine in self.machines() if machine.name == name)

    def preview(self, request: PreviewRequest) -> Preview:
        """The machines that targets match now."""
        return self._read("POST", "/jobs/preview", Preview, request)

    def create_job(self, request: JobRequest) -> JobView:
        """Send a job, and send it again when the answer is lost.

        That is safe only because the server recognises the ``request_id``, which must be set.
        """
        if request.request_id is None:
            raise ValueError("A job that may be sent twice needs a request_id.")
        return self._retries.change(
            lambda timeout_s: self._ask("POST", "/jobs", JobView, request, timeout_s),
            what=f"the job (request {request.request_id})",
            outcome=f"The job may have been accepted and may run; 'landline jobs --request {request.request_id}' "
            "shows whether it was. Look before you send another.",
        )

    def jobs(self, limit: int) -> tuple[JobView, ...]:
        """The newest jobs, newest first."""
        return self._read("GET", f"/jobs?limit={limit}", tuple[JobView, ...])

    def job_of_request(self, request_id: str) -> JobView | None:
        """The job that was accepted for a request, with its events; ``None`` when there is none."""
        path = f"/jobs?request_id={quote(request_id, safe='')}"
        for view in self._read("GET", path, tuple[JobView, ...]):
            return self.job(view.job.id)
        return None

    def job(self, job_id: str) -> JobView:
        """One job with its events."""
        return self._read("GET", f"/jobs/{quote(job_id, safe='')}", JobView)

    def cancel_job(self, job_id: str, request: CancelRequest) -> JobView:
        """Stop what has not begun of the job whose whole id this is; a prefix may mean another job a moment later."""
        path = f"/jobs/{quote(job_id, safe='')}/cancel"
        return self._retries.change(
            lambda timeout_s: self._ask("POST", path, JobView, request, timeout_s),
            what=f"cancelling job {printable(job_id)}",
            outcome=f"The job may have been cancelled; 'landline jobs {printable(job_id)}' shows whether it was.",
        )

    def updates(self) -> Generator[Update, None, None]:
        """A snapshot, then every change as it happens; ends only by an exception. Close it after use."""
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
        """A good response, open while the context is; every failure of the exchange as a sentence."""
        # Imported where it is needed: it is a good part of the time that --help takes.
        from http.client import HTTPException

        from landline.cli.socket_owner import Untrusted
        from landline.cli.unix_http import Connection

        connection = Connection(
            self.address.unix_path, self.address.host, self.address.port, timeout_s=timeout_s
        )
        headers = {"Content-Type": "application/json"}
        if self._token is not None and not self.address.unix_path:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            try:
                connection.connect()
            except Untrusted as error:
                raise ServerGone(
                    f"The control server at {self.address} is not trusted: {error}; nothing was sent",
                    "name your own with --server, or run this as the user of that one",
                    may_have_arrived=False,
                ) from error
            except PermissionError as error:
                raise ServerGone(
                    f"The control server at {self.address} belongs to another user",
                    "name another with --server",
                    may_have_arrived=False,
                ) from error
            except OSError as error:
                raise NobodyAnswers(self.address, self._looked_at) from error
            content = None if body is None else msgspec.json.encode(body)
            connection.request(method, f"/api/v1{path}", content, headers)
            response = connection.getresponse()
            if response.status >= 300:
                raise self._refusal(response)
            yield response
        except TimeoutError as error:
            raise ServerGone(
                f"The control server at {self.address} has been silent for {timeout_s:g} s",
                "try again, or look at its log",
            ) from error
        except (OSError, HTTPException) as error:
            raise self._went_away() from error
        except (msgspec.MsgspecError, EventTooLarge) as error:
            raise self._not_ours() from error
        finally:
            connection.close()

    def _refusal(self, response: HTTPResponse) -> CommandFailed:
        try:
            problem = msgspec.json.decode(response.read(), type=Problem)
        except msgspec.MsgspecError:
            if response.status == SERVICE_UNAVAILABLE:
                return ServerGone(
                    f"The control server at {self.address} has too many connections", "try again later"
                )
            return self._not_ours()
        if problem.code == "unauthorized":
            problem = Problem(
                code=problem.code,
                message=f"The control server at {self.address} wants another token; "
                "give it with --token-file or LANDLINE_TOKEN.",
            )
        status = NO_SERVER if response.status >= 500 else WRONG_USE
        return Refused(_sentence(printable(problem.message)), status, problem.code)

    def _went_away(self) -> ServerGone:
        return ConnectionBroke(
            f"The control server at {self.address} went away", "try again, or look at its log"
        )

    def _not_ours(self) -> ServerGone:
        return ServerGone(
            f"What answers at {self.address} is no landline control server of this version",
            "name another with --server",
        )
