"""What goes wrong with a request, as a status and a body that says what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from el4ner_ray.errors import El4nerError, UsageError
from el4ner_ray.serve.body import SEND_TEXTS
from el4ner_ray.serve.limits import BusyError, TooLargeError


class DeadlineError(El4nerError):
    """A request took longer than it may."""


@dataclass(frozen=True)
class Problem:
    """A status, a word for programs, a sentence for people. Holds nothing of the request but names of its fields."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """As JSON: `messages.ErrorResponse`."""
        return {"error": {"status": self.status, "code": self.code, "message": self.message}}


def problem_of(error: Exception) -> Problem:
    """How a request that raised this is answered."""
    match error:
        case TooLargeError():
            return Problem(413, "too_large", str(error))
        case UsageError():
            return Problem(422, "invalid", str(error))
        case RequestValidationError():
            return Problem(422, "invalid", _first_of(error))
        case HTTPException(status_code=400, __cause__=UsageError() as told):  # raised as FastAPI had the body read
            return problem_of(told)
        case HTTPException(status_code=404):
            return Problem(404, "not_found", "there is no such address; /openapi.json tells which there are")
        case HTTPException(status_code=405, headers={"Allow": allowed}):
            return Problem(405, "method_not_allowed", f"this address takes {allowed} alone", {"Allow": allowed})
        case BusyError():
            return Problem(429, "busy", str(error), {"Retry-After": str(error.retry_after)})
        case DeadlineError():
            return Problem(503, "deadline", str(error), {"Retry-After": "10"})
        case HTTPException():
            code = "too_large" if error.status_code == 413 else HTTPStatus(error.status_code).phrase.lower()
            return Problem(error.status_code, code.replace(" ", "_"), str(error.detail), dict(error.headers or {}))
        case _:
            return Problem(500, "internal", "something broke here; the server's log says what")


def _first_of(error: RequestValidationError) -> str:
    problems = error.errors()
    first = problems[0]
    if first["loc"] == ("body",) and first["input"] is None:
        return f"the body is empty; {SEND_TEXTS}"
    if first["loc"] == ("body",) and isinstance(first["input"], bytes):
        # FastAPI reads no other body as JSON, since a form of another site can send what is not declared as such.
        return "the body is not declared to be JSON; send the body as Content-Type: application/json"
    # Names of fields are the client's, of any length.
    place = ".".join(str(part)[:100] for part in first["loc"] if part not in ("body", "[key]"))
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    # Checks of the configuration name the field themselves.
    named = not place or message.startswith(place)
    return f"{message}{more}" if named else f"{place}: {message}{more}"
