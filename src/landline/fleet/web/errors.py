"""The error answers: every exception that can leave a handler becomes a status and a :class:`Problem`. Pure.

Storage errors are translated for HTTP here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from landline import safe_text
from landline.fleet.api import AnswerUnavailable, OperationError, Problem, StorageError
from landline.fleet.messages import STORAGE_FAILED
from landline.fleet.model import Action

STATUS_BY_CODE: Final = {
    "unknown_target": 404,
    "unknown_job": 404,
    "ambiguous_job": 409,
    "still_cloned": 409,
    "not_cloned": 409,
    "request_id_used": 409,
    "empty_target": 400,
    "bad_request": 400,
}
"""Refusals with a code that is not listed are answered with 400."""

QUOTED_CHARACTERS_MAX: Final = 200
"""How much of a client's own text an answer repeats: enough to recognise it, too little to abuse it."""


class RequestRefused(Exception):
    """A request was refused before it reached an operation."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.problem: Problem = Problem(code=code, message=message)


INTERNAL: Final = Problem(
    code="internal", message="The control server failed while it handled this request; its log says why."
)

STORAGE_FAILURE: Final = Problem(
    code=STORAGE_FAILED,
    message="The control server's database failed, so nothing was done; its log says why. Try again later.",
)

ANSWER_UNAVAILABLE: Final = Problem(
    code="answer_unavailable",
    message="The request was carried out, but its result could not be read from the database; the log says why. "
    "Ask for the current state.",
)


def describe(exception: Exception) -> tuple[int, Problem]:
    """Return the status and the body that answer ``exception``. Unexpected exceptions reveal nothing."""
    match exception:
        case RequestRefused():
            return exception.status, exception.problem
        case OperationError():
            return STATUS_BY_CODE.get(exception.code, 400), Problem(
                code=exception.code, message=exception.message
            )
        case StorageError():
            return 503, STORAGE_FAILURE
        case AnswerUnavailable():
            return 500, ANSWER_UNAVAILABLE
        case RequestEntityTooLarge():
            return 413, Problem(
                code="too_large", message="The request body is too large; ask for fewer machines at a time."
            )
        case NotFoundException():
            return 404, Problem(
                code="not_found",
                message="There is nothing at this path; /api/v1/openapi.json lists the paths.",
            )
        case MethodNotAllowedException():
            return 405, Problem(
                code="method_not_allowed",
                message="This path does not support this method; /api/v1/openapi.json lists the methods.",
            )
        case ValidationException():
            return 400, Problem(code="bad_request", message=_validation_sentence(exception.extra))
        case UnicodeDecodeError():
            return 400, Problem(
                code="bad_request", message="The request body is not valid UTF-8; send JSON in UTF-8."
            )
        case HTTPException() if 400 <= exception.status_code < 500:
            return exception.status_code, Problem(
                code="bad_request",
                message=f"The request body is not valid JSON: {_quoted(exception.detail)}.",
            )
        case _:
            return 500, INTERNAL


def _validation_sentence(extra: Mapping[str, Any] | Sequence[Any] | None) -> str:
    """Return a sentence on the first invalid field, from Litestar's list of ``{key, message, source}``."""
    first = extra[0] if isinstance(extra, Sequence) and extra else {}
    key, message = str(first.get("key", "")), str(first.get("message", ""))
    if match := re.fullmatch(r"Object missing required field `(.+)`", message):
        return f"The field '{_inside(key, match[1])}' is missing; add it."
    if match := re.fullmatch(r"Object contains unknown field `(.+)`", message):
        return f"The field '{_quoted(_inside(key, match[1]))}' does not exist; leave it out."
    if key == "data":
        return "The request body must be a JSON object; send {} if it has no fields."
    hint = f"; choose one of {', '.join(Action)}" if key == "action" else ""
    return f"The field '{_quoted(key)}' is invalid: {_quoted(message[:1].lower() + message[1:])}{hint}."


def _inside(key: str, field: str) -> str:
    return field if key in {"", "data"} else f"{key}.{field}"


def _quoted(text: str) -> str:
    return safe_text(text, QUOTED_CHARACTERS_MAX)
