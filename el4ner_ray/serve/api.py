"""The routes: what they take and answer, and who may ask."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Coroutine
from importlib import metadata
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from el4ner_ray.errors import El4nerError
from el4ner_ray.serve.body import JsonRequest
from el4ner_ray.serve.messages import AnnotateRequest, AnnotateResponse, ErrorResponse, Health, Model, Models
from el4ner_ray.serve.metrics import Metrics
from el4ner_ray.serve.middleware import CLIENT_GONE, BodyLimit, Observed
from el4ner_ray.serve.page import Page
from el4ner_ray.serve.problems import problem_of
from el4ner_ray.serve.service import Service

NDJSON = "application/x-ndjson"
HealthCheck = Callable[[], Awaitable[dict[str, str]]]
"""The state of each model's engines, as Ray Serve calls it."""

_BEARER = HTTPBearer(auto_error=False, description="The value of EL4NER_API_KEY where the server runs.")
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description}
    for status, description in {
        401: "The API key is missing or wrong.",
        413: "The body is too long, or the texts have too many sentences.",
        415: "The body has a Content-Encoding; it is taken uncompressed alone.",
        422: "The body is not as it must be; the message names the field.",
        429: "Too many sentences are in flight or wait; Retry-After says when to try again.",
        503: "The time limit passed, or the engines do not run.",
    }.items()
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {NDJSON: {"schema": {"type": "string", "description": "A JSON object a line, see docs."}}}}
}


def key_digest(key: str) -> bytes:
    """What the server keeps of an API key."""
    return hashlib.sha256(key.encode()).digest()


def create_app(service: Service, metrics: Metrics, health: HealthCheck, key: bytes | None) -> FastAPI:
    """The application. `key`: `key_digest` of the API key, None to let everybody ask."""
    # FastAPI's own documentation pages load their scripts from elsewhere.
    app = FastAPI(
        title="el4ner",
        version=metadata.version("el4ner-ray"),
        summary="Named entities by an ensemble of small LLMs.",
        docs_url=None,
        redoc_url=None,
        # A redirection is no JSON, needs no key, and behind a proxy may lead to http.
        redirect_slashes=False,
    )
    page = Page(service.annotator, needs_key=key is not None)
    # The dependency is for OpenAPI, which then says that these want a key.
    guarded = APIRouter(route_class=_guarded_by(key), dependencies=[Depends(_BEARER)])

    @guarded.post("/v1/annotate", response_model=AnnotateResponse, responses=_ANSWERS | _PROBLEMS)
    async def annotate(body: AnnotateRequest, request: Request) -> Response:
        """Entities of each text, with who found them and who voted for what; whole, or sentence by sentence."""
        if body.stream or NDJSON in request.headers.get("accept", ""):
            return StreamingResponse(await service.stream(body), media_type=NDJSON)
        return await _unless_gone(request, service.answer(body))

    @guarded.get("/v1/models", responses={401: _PROBLEMS[401]})
    async def models() -> Models:
        """The ensemble, and what can be asked of it."""
        annotator, limits = service.annotator, service.limits
        config, pool = annotator.config, annotator.pool
        return Models(
            engine=config.engine,
            models=[Model(name=m.name, source=m.source, verifier=m.name == config.verifier) for m in config.models],
            methods=list(annotator.methods),
            labels=annotator.labels,
            pool_sentences=pool.sentences if pool else None,
            limits={"body_bytes": limits.body_bytes, "sentences": limits.sentences, "seconds": limits.seconds},
        )

    @app.get("/v1/health", response_model=Health, responses={503: {"model": Health}})
    async def healthy() -> Response:
        """Whether every model's engines run."""
        states = await health()
        ok = all(state == "RUNNING" for state in states.values())
        return JSONResponse({"status": "ok" if ok else "unavailable", "models": states}, 200 if ok else 503)

    @guarded.get("/metrics", response_class=Response)
    async def counters() -> Response:
        """Counters of this server in Prometheus's text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return Response(page.html, media_type="text/html", headers=page.headers)

    app.include_router(guarded)
    for kind in (El4nerError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_problem)
    app.add_middleware(BodyLimit, limit=service.limits.body_bytes)
    app.add_middleware(Observed, metrics=metrics)
    return app


async def _unless_gone(request: Request, answering: Coroutine[Any, Any, bytes]) -> Response:
    """The answer; or no further work for a client that has gone away."""
    answer, gone = asyncio.create_task(answering), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and gone.exception() is None:
            return Response(status_code=CLIENT_GONE)
        return Response(await answer, media_type="application/json")
    finally:
        answer.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _guarded_by(key: bytes | None) -> type[APIRoute]:
    """Routes that look at the key before they read the body, which strangers would otherwise have parsed."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()

            async def checked(request: Request) -> Response:
                await _check_key(request, key)
                return await answer(JsonRequest(request.scope, request.receive))

            return checked

    return Guarded


async def _check_key(request: Request, key: bytes | None) -> None:
    given = await _BEARER(request)
    if key and (given is None or not hmac.compare_digest(key_digest(given.credentials), key)):
        raise HTTPException(
            401, "give the API key in the header Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
        )


async def _answer_problem(_: Request, error: Exception) -> Response:
    if isinstance(error.__cause__, ClientDisconnect):  # FastAPI's "There was an error parsing the body"
        return Response(status_code=CLIENT_GONE)
    problem = problem_of(error)
    return JSONResponse(problem.body, problem.status, problem.headers)
