"""The server's routes. What happens between a route and the engine is in :mod:`afina.serve.answers`."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from afina import __version__
from afina.errors import AfinaError, ContextOverflow
from afina.serve.answers import ClientRequest, chat_requests, completion_requests
from afina.serve.driver import Busy, Driver, EngineStopped
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

Wanted = TypeVar("Wanted", ChatRequest, CompletionRequest)
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The request is wrong; `message` says where."},
    401: {"model": ErrorAnswer, "description": "The key is missing or wrong."},
    404: {"model": ErrorAnswer, "description": "There is no such model."},
    429: {"model": ErrorAnswer, "description": "The queue is full."},
    503: {"model": ErrorAnswer, "description": "The engine has stopped."},
}
PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Done."}
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The answer."}
}


class RequestRefused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def make_app(
    models: Models,
    driver: Driver,
    *,
    api_key: str | None = None,
    change_adapters: bool = False,
) -> FastAPI:
    """The application.

    Args:
        api_key: asked for on every route below ``/v1``.
        change_adapters: whether adapters may be loaded and unloaded at run time: whoever may ask can then have any
            folder of this machine opened as an adapter.
    """
    engine = driver.engine
    metrics = Metrics(lambda: engine.running, lambda: max(0, driver.open - engine.running))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(driver.close)

    app = FastAPI(title="afina", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    bearer = HTTPBearer(auto_error=False)

    async def check_key(given: HTTPAuthorizationCredentials | None = Depends(bearer)) -> None:  # noqa: B008
        if api_key is None:
            return
        if given is None or not secrets.compare_digest(given.credentials.encode(), api_key.encode()):
            raise RequestRefused(401, "the API key is missing or wrong", code="invalid_api_key")

    def served(name: str) -> Served:
        if name not in models.served:
            there = ", ".join(models.served)
            raise RequestRefused(
                404, f"the model `{name}` does not exist; there are: {there}", code="model_not_found", param="model"
            )
        return models.served[name]

    async def ask(wanted: Wanted, request: Request, make: Callable[..., Any]) -> Response:
        """Both kinds of request, whole or streamed."""
        model = served(wanted.model)
        requests = make(model, wanted, engine.context)
        if not driver.has_room(len(requests)):
            raise Busy
        asked = ClientRequest(model, wanted, requests, driver, metrics, engine.context)
        if wanted.stream:
            return StreamingResponse(asked.stream(), media_type="text/event-stream")
        return JSONResponse((await _unless_gone(request, asked.whole())).model_dump())

    secured = [Depends(check_key)]

    @app.post("/v1/chat/completions", response_model=ChatAnswer, responses=ERRORS | STREAM, dependencies=secured)
    async def chat(wanted: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await ask(wanted, request, chat_requests)

    @app.post("/v1/completions", response_model=CompletionAnswer, responses=ERRORS | STREAM, dependencies=secured)
    async def complete(wanted: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        return await ask(wanted, request, completion_requests)

    def card(each: Served) -> ModelCard:
        return ModelCard(
            id=each.name,
            created=each.created,
            root=str(each.folder or models.identity.name),
            parent=models.base.name if each.inside else None,
            max_model_len=engine.context,
        )

    @app.get("/v1/models", responses={401: ERRORS[401]}, dependencies=secured)
    async def list_models() -> ModelList:
        """The base and every adapter."""
        return ModelList(data=[card(each) for each in models.served.values()])

    @app.get("/v1/models/{name:path}", responses={code: ERRORS[code] for code in (401, 404)}, dependencies=secured)
    async def one_model(name: str) -> ModelCard:
        """One of them."""
        return card(served(name))

    def may_change() -> None:
        if not change_adapters:
            raise RequestRefused(
                403, "adapters may not be changed: start the server with --change-adapters", code="forbidden"
            )

    changes: dict[int | str, dict[str, Any]] = PLAIN | {code: ERRORS[code] for code in (400, 401, 503)}
    changes[403] = {"model": ErrorAnswer, "description": "The server was not started with --change-adapters."}
    changes[404] = {"model": ErrorAnswer, "description": "There is no such adapter."}

    @app.post("/v1/load_lora_adapter", response_model=None, responses=changes, dependencies=secured)
    async def load(wanted: LoadAdapter) -> Response:
        """Add an adapter from a folder of this machine: a run, or PEFT's own."""
        may_change()

        def change() -> str | None:
            target = _adapter_at(wanted.lora_path)
            own = target.chat if target.recipe else None
            warning = models.load(wanted.lora_name, target.adapter or Path(target.base), own, target.run)
            engine.adopt(models.model)
            return warning

        warning = await driver.call(change)
        more = f" {warning}" if warning else ""
        return PlainTextResponse(f"Success: LoRA adapter '{wanted.lora_name}' added successfully.{more}")

    @app.post("/v1/unload_lora_adapter", response_model=None, responses=changes, dependencies=secured)
    async def unload(wanted: UnloadAdapter) -> Response:
        """Remove an adapter that no request uses."""
        may_change()

        def change() -> None:
            inside = models.served[wanted.lora_name].inside if wanted.lora_name in models.served else None
            if inside is None:
                raise RequestRefused(404, f"there is no adapter {wanted.lora_name!r}", code="model_not_found")
            if count := driver.uses(inside):
                raise RequestRefused(400, f"{count} requests use {wanted.lora_name}", code="in_use")
            models.unload(wanted.lora_name)

        await driver.call(change)
        return PlainTextResponse(f"Success: LoRA adapter '{wanted.lora_name}' removed successfully.")

    @app.get("/health", responses={503: ERRORS[503]})
    async def health() -> dict[str, str]:
        """Whether the engine runs."""
        if driver.failure is not None:
            raise EngineStopped(str(driver.failure))
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    _add_errors(app)
    _describe(app)
    return app


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

    @app.exception_handler(ContextOverflow)
    async def overflow(_: Request, error: ContextOverflow) -> JSONResponse:
        return answer(400, str(error), code="context_length_exceeded", param="messages")

    @app.exception_handler(AfinaError)
    async def unfit(_: Request, error: AfinaError) -> JSONResponse:
        return answer(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [(".".join(map(str, each["loc"][1:])), each["msg"]) for each in error.errors()]
        return answer(
            400, "; ".join(f"{where}: {what}" if where else what for where, what in problems), param=problems[0][0]
        )

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        made = answer(error.status_code, str(error.detail))
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
