"""The server's routes. What happens between a route and the engine is in :mod:`afina.serve.answers`."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from afina import __version__
from afina.errors import AfinaError, ContextOverflow
from afina.serve.answers import (
    AnswerFailed,
    ClientRequest,
    chat_requests,
    completion_requests,
    limit_shown,
    unread_thoughts,
)
from afina.serve.driver import Answering, Busy, Driver, EngineStopped
from afina.serve.listening import is_own_name
from afina.serve.metrics import Metrics
from afina.serve.opened import Models, Served, Target, find_target
from afina.serve.protocol import (
    ChatAnswer,
    ChatRequest,
    CompletionAnswer,
    CompletionRequest,
    ErrorAnswer,
    ErrorBody,
    LoadAdapter,
    ModelCard,
    ModelList,
    UnloadAdapter,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Answered = TypeVar("Answered")
Wanted = TypeVar("Wanted", ChatRequest, CompletionRequest)
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The request is wrong; `message` says where."},
    401: {"model": ErrorAnswer, "description": "The key is missing or wrong."},
    404: {"model": ErrorAnswer, "description": "There is no such model."},
    413: {"model": ErrorAnswer, "description": "The body is longer than a request may be."},
    415: {"model": ErrorAnswer, "description": "The body is not sent as JSON, or is packed."},
    421: {"model": ErrorAnswer, "description": "Asked by a name that is not this machine's, and there is no key."},
    429: {"model": ErrorAnswer, "description": "The queue is full."},
    500: {"model": ErrorAnswer, "description": "The model could not go on."},
    503: {"model": ErrorAnswer, "description": "The engine has stopped."},
}
PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Done."}
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The answer."}
}


IGNORED = "X-Afina-Ignored"
"""Header that names the keys of a request that mean nothing here."""
LIMIT = "X-Afina-Max-Tokens"
"""Header that says how many tokens an answer may have where fewer fit than were asked for."""
UNHELD = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Of a stream: that what stands between (nginx buffers by itself) hands on each event as it comes."""
MOST_BYTES = 1 << 26
"""Of a request's body: it is read before anybody's key is looked at."""
SERVED = ("/v1/chat/completions", "/v1/completions", "/v1/models")
OTHERS = {"assistants", "audio", "batches", "containers", "conversations", "embeddings", "evals", "files"}
OTHERS |= {"fine_tuning", "images", "moderations", "organization", "realtime", "rerank", "responses", "threads"}
OTHERS |= {"uploads", "vector_stores", "videos"}
"""What else OpenAI's API has below ``/v1``."""
BEARER = Depends(HTTPBearer(auto_error=False))


class AsAsked:
    """A middleware that takes addresses and methods as clients, monitors and proxies write them: slashes too many (a
    redirect would lose the body, or lead past a proxy), and HEAD, which asks whether there is an answer. Of a body it
    hands on no more than :data:`MOST_BYTES`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on as the routes have it. Of HEAD's answer uvicorn, which keeps its own scope, sends no body."""
        if scope["type"] == "http":
            path = "/" + "/".join(part for part in scope["path"].split("/") if part)
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "path": path, "method": method}
            receive = _at_most(MOST_BYTES, scope, receive)
        await self.app(scope, receive, send)


def _at_most(most: int, scope: Scope, receive: Receive) -> Receive:
    """What is received of a request, as far as its body may go.

    Raises (when it is received):
        HTTPException: 413, by the length that the client tells, or by what has come.
    """
    told = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    came = 0

    async def received() -> Message:
        nonlocal came
        if told.isdigit() and int(told) > most:
            raise _too_long(most)
        message = await receive()
        came += len(message.get("body", b""))
        if came > most:
            raise _too_long(most)
        return message

    return received


def _too_long(most: int) -> HTTPException:
    return HTTPException(413, f"the body is longer than {most >> 20} MiB: send less text in one request")


class RequestRefused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


@dataclass(frozen=True)
class Server:
    """What the routes share.

    Args:
        api_key: asked for on every route below ``/v1``.
        changing: the engine whose adapters may be loaded and unloaded at run time: whoever may ask can then have any
            folder of this machine opened as an adapter. None: they may not.
    """

    models: Models
    driver: Answering
    metrics: Metrics
    api_key: str | None
    changing: Driver | None

    async def check_key(self, request: Request, given: HTTPAuthorizationCredentials | None = BEARER) -> None:
        """Refuse a request without the key. Where there is none, one that knows this machine by a name which anybody
        can own: a page in a browser asks so, when its name was made to lead here (DNS rebinding)."""
        if self.api_key is None:
            if not is_own_name(host := request.headers.get("host", "")):
                what = f"{host[:100]!r} is no name of this machine: a page in a browser could ask so"
                raise RequestRefused(421, f"{what}. Ask by an address or localhost, or start the server with --api-key")
            return
        if given is None or not secrets.compare_digest(given.credentials.encode(), self.api_key.encode()):
            raise RequestRefused(401, "the API key is missing or wrong", code="invalid_api_key")

    def served(self, name: str) -> Served:
        """The model of that name."""
        if name not in self.models.served:
            there = ", ".join(self.models.served)
            raise RequestRefused(
                404, f"the model `{name}` does not exist; there are: {there}", code="model_not_found", param="model"
            )
        return self.models.served[name]

    def card(self, each: Served) -> ModelCard:
        """A model as the list of models shows it."""
        return ModelCard(
            id=each.name,
            created=each.created,
            root=str(each.folder or self.models.identity.name),
            parent=self.models.base.name if each.inside else None,
            max_model_len=self.driver.context,
        )

    async def ask(self, wanted: Wanted, request: Request, make: Callable[..., Any]) -> Response:
        """Both kinds of request, whole or streamed."""
        model: Served = self.served(wanted.model)
        context = self.driver.context
        if wanted.answers > self.driver.most:  # that it is full now would send the client back for ever
            what = f"{wanted.answers} answers are asked for at once, and this server holds {self.driver.most} at most"
            raise RequestRefused(400, f"{what}: ask in several requests", param="n" if wanted.n > 1 else "prompt")
        requests = make(model, wanted, context)
        if (grammar := requests[0].grammar) is not None:  # before a stream's status goes out
            await asyncio.to_thread(self.driver.grammars.matcher, grammar)
        headers = {}
        if ignored := sorted({*wanted.ignored(), *unread_thoughts(model, wanted)}):
            headers[IGNORED] = ", ".join(ignored)
        if (limit := limit_shown(wanted, requests)) is not None:
            headers[LIMIT] = str(limit)
        if not self.driver.has_room(len(requests)):
            raise Busy
        asked = ClientRequest(model, wanted, requests, self.driver, self.metrics, context)
        if wanted.stream:
            return StreamingResponse(asked.stream(), media_type="text/event-stream", headers=headers | UNHELD)
        return JSONResponse(_as_json(await _unless_gone(request, asked.whole())), headers=headers)

    async def change(self, what: Callable[[Driver], Answered]) -> Answered:
        """Change the adapters between two steps of the engine."""
        driver = self.changing
        if driver is None:
            raise RequestRefused(
                403, "adapters may not be changed: start the server with --change-adapters", code="forbidden"
            )
        return await driver.call(lambda: what(driver))


def make_app(
    models: Models,
    driver: Answering,
    *,
    api_key: str | None = None,
    change_adapters: bool = False,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The application; see :class:`Server` for the arguments.

    Args:
        change_adapters: let clients load and unload adapters; our own engine's only.
        origins: pages that may ask from a browser (``http://localhost:3000``, or ``*`` for any).
    """
    metrics = Metrics(lambda: driver.running, lambda: max(0, driver.open - driver.running))
    changing = driver if change_adapters and isinstance(driver, Driver) else None
    server = Server(models, driver, metrics, api_key, changing)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(driver.close)

    app = FastAPI(title="afina", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    for routes in (_answer_routes(server), _model_routes(server), _adapter_routes(server)):
        app.include_router(routes, prefix="/v1", dependencies=[Depends(server.check_key)])
    app.include_router(_state_routes(server))
    _add_errors(app)
    app.add_middleware(AsAsked)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            allow_private_network=True,  # a page of the internet that is named may ask a server of this network
            expose_headers=[IGNORED, LIMIT, "Retry-After"],
        )
    _describe(app)
    return app


def _answer_routes(server: Server) -> APIRouter:
    routes = APIRouter()

    @routes.post("/chat/completions", response_model=ChatAnswer, responses=ERRORS | STREAM)
    async def chat(wanted: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await server.ask(wanted, request, chat_requests)

    @routes.post("/completions", response_model=CompletionAnswer, responses=ERRORS | STREAM)
    async def complete(wanted: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        return await server.ask(wanted, request, completion_requests)

    return routes


def _model_routes(server: Server) -> APIRouter:
    routes = APIRouter()

    @routes.get("/models", responses={code: ERRORS[code] for code in (401, 421)})
    async def list_models() -> ModelList:
        """The base and every adapter."""
        return ModelList(data=[server.card(each) for each in server.models.served.values()])

    @routes.get("/models/{name:path}", responses={code: ERRORS[code] for code in (401, 404, 421)})
    async def one_model(name: str) -> ModelCard:
        """One of them."""
        return server.card(server.served(name))

    return routes


def _adapter_routes(server: Server) -> APIRouter:
    routes = APIRouter()
    models = server.models
    changes: dict[int | str, dict[str, Any]] = PLAIN | {code: ERRORS[code] for code in (400, 401, 413, 415, 421, 503)}
    changes[403] = {"model": ErrorAnswer, "description": "The server was not started with --change-adapters."}
    changes[404] = {"model": ErrorAnswer, "description": "There is no such adapter."}

    @routes.post("/load_lora_adapter", response_model=None, responses=changes)
    async def load(wanted: LoadAdapter) -> Response:
        """Add an adapter from a folder of this machine: a run, or PEFT's own."""

        def change(driver: Driver) -> str | None:
            target = _adapter_at(wanted.lora_path)
            own = target.chat if target.recipe else None
            warning = models.load(wanted.lora_name, target.adapter or Path(target.base), own, target.run)
            driver.engine.adopt(models.model)
            return warning

        warning = await server.change(change)
        more = f" {warning}" if warning else ""
        return PlainTextResponse(f"Success: LoRA adapter '{wanted.lora_name}' added successfully.{more}")

    @routes.post("/unload_lora_adapter", response_model=None, responses=changes)
    async def unload(wanted: UnloadAdapter) -> Response:
        """Remove an adapter that no request uses."""

        def change(driver: Driver) -> None:
            inside = models.served[wanted.lora_name].inside if wanted.lora_name in models.served else None
            if inside is None:
                raise RequestRefused(404, f"there is no adapter {wanted.lora_name!r}", code="model_not_found")
            if count := driver.uses(inside):
                raise RequestRefused(400, f"{count} requests use {wanted.lora_name}", code="in_use")
            models.unload(wanted.lora_name)

        await server.change(change)
        return PlainTextResponse(f"Success: LoRA adapter '{wanted.lora_name}' removed successfully.")

    return routes


def _state_routes(server: Server) -> APIRouter:
    routes = APIRouter()

    @routes.get("/health", responses={503: ERRORS[503]})
    async def health() -> dict[str, str]:
        """Whether the engine runs."""
        if server.driver.failure is not None:
            raise EngineStopped(str(server.driver.failure))
        return {"status": "ok"}

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """For Prometheus."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


def _adapter_at(place: str) -> Target:
    """What a folder of this machine holds.

    Raises:
        Refused: no adapter is there, or its name is none.
    """
    try:
        target = find_target(place)
        if ((target.adapter or Path(target.base)) / "adapter_config.json").is_file():
            return target
    except (OSError, ValueError):  # longer than names may be, or with a zero in it
        pass
    raise RequestRefused(404, f"no adapter found for {place}", code="adapter_not_found", param="lora_path")


async def _unless_gone(request: Request, answer: Awaitable[Any]) -> Any:
    """The answer; given up, and its places freed, when the client hangs up before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(answer), asyncio.create_task(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestRefused(499, "the client hung up")
        return await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


def _as_json(answer: ChatAnswer | CompletionAnswer) -> dict[str, Any]:
    """As OpenAI's servers write it: an answer without calls or a thought has no key for them."""
    made = answer.model_dump()
    for choice in made["choices"]:
        for key in ("reasoning_content", "tool_calls"):
            if "message" in choice and choice["message"][key] is None:
                del choice["message"][key]
    return made


def _no_route(path: str) -> str:
    """What is wrong with a path that is none of ours.

    >>> _no_route("/v1/embeddings")
    '/v1/embeddings is not served here; there are /v1/chat/completions, /v1/completions, /v1/models'
    >>> _no_route("/chat/completions")
    "/chat/completions is not there: the client's base URL ends with /v1"
    >>> _no_route("/v1/v1/models")
    '/v1/v1/models is not there: this client adds /v1 itself, so its base URL ends before it'
    """
    parts = path.strip("/").split("/")
    if parts[:2] == ["v1", "v1"]:
        return f"{path} is not there: this client adds /v1 itself, so its base URL ends before it"
    if f"/v1/{'/'.join(parts)}" in SERVED:
        return f"{path} is not there: the client's base URL ends with /v1"
    known = len(parts) > 1 and parts[0] == "v1" and parts[1] in OTHERS
    return f"{path} is {'not served' if known else 'nothing'} here; there are {', '.join(SERVED)}"


def _other_method(request: Request, allowed: str) -> str:
    """What is wrong with a method that a path is not asked by."""
    if request.method == "OPTIONS":
        return "pages in a browser may ask a server that was started with --cors ORIGIN"
    return f"{request.url.path} is asked by {allowed}, not by {request.method}"


def _unread_body(request: Request) -> tuple[int, str]:
    """Status and words for a body that could not be read as JSON."""
    packed, kind = (request.headers.get(f"content-{each}", "") for each in ("encoding", "type"))
    if packed.strip().lower() not in ("", "identity"):
        return 415, f"the body is packed ({packed[:40]}): send it as it is, without Content-Encoding"
    if "json" not in kind.lower():
        said = f"as {kind[:80]}" if kind else "without saying what it is"
        return 415, f"the body is sent {said}: send JSON, with Content-Type: application/json"
    return 400, "the body cannot be read as JSON in UTF-8"


def _place(steps: Sequence[int | str], key: str | None = None) -> str:
    """Where in a body something is wrong, without the names that pydantic gives to the forms that a value may have.

    >>> _place(("stop", "list[constrained-str]", 0)), _place(("chat_template_kwargs", "a", "bool"))
    ('stop.0', 'chat_template_kwargs.a')
    """
    plain = [step for step in steps if isinstance(step, int) or re.fullmatch(r"\w+", step)]
    plain = plain[:-1] if plain and plain[-1] in ("bool", "int", "str") else plain
    return ".".join(map(str, [*plain, *([key] if key else [])]))


def _add_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    def answer(status: int, message: str, *, code: str | None = None, param: str | None = None) -> JSONResponse:
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status)
        kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
        headers = {"Retry-After": "1"} if status in (429, 503) else {}
        headers |= {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        body = ErrorAnswer(error=ErrorBody(message=message, type=kind, param=param, code=code))
        return JSONResponse(body.model_dump(), status, headers)

    @app.exception_handler(RequestRefused)
    async def refused(_: Request, error: RequestRefused) -> JSONResponse:
        return answer(error.status, str(error), code=error.code, param=error.param)

    @app.exception_handler(Busy)
    async def busy(_: Request, __: Busy) -> JSONResponse:
        return answer(429, "too many requests are waiting already; try again shortly", code="queue_full")

    @app.exception_handler(EngineStopped)
    async def stopped(_: Request, error: EngineStopped) -> JSONResponse:
        return answer(503, f"the engine has stopped: {error}", code="engine_stopped")

    @app.exception_handler(AnswerFailed)
    async def failed(_: Request, error: AnswerFailed) -> JSONResponse:
        return answer(500, str(error), code="answer_failed")

    @app.exception_handler(ContextOverflow)
    async def overflow(_: Request, error: ContextOverflow) -> JSONResponse:
        return answer(400, str(error), code="context_length_exceeded", param="messages")

    @app.exception_handler(AfinaError)
    async def unfit(_: Request, error: AfinaError) -> JSONResponse:
        return answer(400, str(error), param=error.problems[0].where or None)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        if isinstance(error.body, bytes):
            return answer(*_unread_body(request))
        problems: dict[str, list[str]] = {}
        for each in error.errors():
            place = _place(each["loc"][1:], each.get("ctx", {}).get("key"))
            missing = each["type"] == "missing" and not place
            problems.setdefault(place, []).append("the request has no body" if missing else each["msg"])
        told = {place: ", or ".join(dict.fromkeys(said)) for place, said in problems.items()}
        text = "; ".join(f"{place}: {what}" if place else what for place, what in told.items())
        return answer(400, text, param=next(iter(told)))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        said, code = str(error.detail), None
        status = error.status_code
        if status == 404:
            said, code = _no_route(request.url.path), "unknown_url"
        elif status == 405:
            said = _other_method(request, (error.headers or {}).get("Allow", "another method"))
        elif status == 400:  # FastAPI's own, of a body that it could not parse; ours are no HTTPException
            status, said = _unread_body(request)
        made = answer(status, said, code=code)
        made.headers.update(error.headers or {})
        return made


def _describe(app: FastAPI) -> None:
    """The server's own OpenAPI says 400 where FastAPI would say 422: that is what is answered."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            for path in schema["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
