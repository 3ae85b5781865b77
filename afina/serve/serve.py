"""``afina serve``: look first, start, and prove that what answers is what was trained."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from afina.errors import AfinaError, RecipeError
from afina.llamacpp.base_file import kind_before
from afina.run import Progress, no_progress
from afina.serve.commands import Client, client_settings, mlx_command, show_command, vllm_command
from afina.serve.driver import Answering
from afina.serve.identity import (
    AT_ONCE,
    SECONDS,
    Explain,
    Identity,
    Parting,
    Stored,
    ask_over_http,
    check_identity,
    opener_of,
    refuse_wrong,
    stored_answers,
)
from afina.serve.listening import url_of
from afina.serve.opened import Models, Target, find_target, name_models, open_models, recipe_of
from afina.serve.preflight import Preflight, check_address, look_before
from afina.temporary import temporary_folder

EngineName = Literal["auto", "local", "vllm", "mlx", "llamacpp"]
Say = Callable[[str], None]
Stage = Callable[[str], contextlib.AbstractContextManager[Progress]]
"""Shows what is done within its block, under a name."""
OURS = ("local", "llamacpp")
"""Engines behind our own routes."""
OTHER_ROUNDING = 0.2
"""Share of greedy answers that may differ where another program computes, in another precision."""


def silent(_: str) -> contextlib.AbstractContextManager[Progress]:
    """The :data:`Stage` that shows nothing."""
    return contextlib.nullcontext(no_progress)


@dataclass(frozen=True)
class ServeOptions:
    """What the command line gives."""

    engine: EngineName = "auto"
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_model_len: int | None = None
    places: int = 32
    queue_limit: int = 256
    anyway: bool = False
    change_adapters: bool = False
    origins: tuple[str, ...] = ()
    """Pages that may ask from a browser; see :func:`check_origins`."""
    check: bool = True
    device: str = "auto"
    gguf_type: str = "auto"
    """How llama.cpp holds the base's weights, see :func:`afina.llamacpp.base_file.choose_base_file`."""

    @property
    def url(self) -> str:
        """Where this machine reaches the server."""
        return url_of(self.host, self.port)


def named_adapters(given: Sequence[str]) -> dict[str, Target]:
    """``NAME=RUN`` words.

    >>> named_adapters(["x"])
    Traceback (most recent call last):
    ...
    afina.errors.RecipeError: --adapter x has no name
      -> write --adapter NAME=RUN
    """
    found: dict[str, Target] = {}
    for word in given:
        name, equals, place = word.partition("=")
        if not equals or not name or not place:
            raise RecipeError(f"--adapter {word} has no name", "write --adapter NAME=RUN")
        if name in found:
            raise RecipeError(f"--adapter {name} is given twice", "choose another name")
        found[name] = find_target(place)
    return found


def check_names(target: Target, adapters: Mapping[str, Target]) -> None:
    """Refuse an adapter under a name that something else has: whoever asks by it would get another model.

    Raises:
        RecipeError: it is the run's own name, or its base's.
    """
    for name, what in ((target.name, "the run" if target.run else "the base"), (target.base_name, "the base")):
        if name in adapters:
            raise RecipeError(f"--adapter {name} is what {what} is called already", "choose another name", "--adapter")


def origin_as_sent(origin: str) -> str | None:
    """An origin as browsers send it: in small letters, without the port that its scheme has by itself. None for what
    none of them sends.

    >>> origin_as_sent("HTTPS://App.example:443"), origin_as_sent("http://[::1]:3000"), origin_as_sent("a.example")
    ('https://app.example', 'http://[::1]:3000', None)
    """
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is none
        return None
    beside = parts.path or parts.query or parts.fragment or "@" in parts.netloc
    if not (parts.scheme and host) or beside or re.search(r"\s", origin):
        return None
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    behind = "" if port is None or port == usual else f":{port}"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{behind}"


def check_origins(origins: Sequence[str], engine: str) -> None:
    """Refuse what no browser sends as a page's origin.

    Raises:
        RecipeError: an origin with a path or without a scheme, or an engine that has switches of its own.

    >>> check_origins(["http://localhost:3000/"], "local")
    Traceback (most recent call last):
    ...
    afina.errors.RecipeError: --cors http://localhost:3000/ is no origin
      -> write scheme, host and port: --cors http://localhost:3000, or --cors '*' for every page
    """
    if origins and engine not in OURS:
        raise RecipeError(f"--cors is a switch of afina's own server, not of {engine}", "--engine local", "--cors")
    for origin in origins:
        if origin != "*" and origin_as_sent(origin) is None:
            raise RecipeError(
                f"--cors {origin} is no origin",
                "write scheme, host and port: --cors http://localhost:3000, or --cors '*' for every page",
            )


def pick_engine(wanted: EngineName) -> Literal["local", "vllm", "mlx", "llamacpp"]:
    """`auto`: vLLM where it is installed beside a CUDA device, else ours."""
    if wanted != "auto":
        return wanted
    import shutil

    import torch

    return "vllm" if torch.cuda.is_available() and shutil.which("vllm") else "local"


def look(target: Target, adapters: Mapping[str, Target], options: ServeOptions, say: Say) -> tuple[str, Preflight]:
    """The engine and what is known before the start.

    Raises:
        AfinaError: everything that would go wrong, at once.
    """
    check_address(options.host, options.api_key)
    engine = pick_engine(options.engine)
    check_origins(options.origins, engine)
    if options.change_adapters and engine != "local":
        raise RecipeError(
            f"adapters are changed at run time by afina's own engine, not by {engine}",
            "name them all with --adapter, or --engine local",
            "--change-adapters",
        )
    return engine, _look(target, adapters, options, engine, options.port, say)


def _look(
    target: Target, adapters: Mapping[str, Target], options: ServeOptions, engine: str, port: int | None, say: Say
) -> Preflight:
    check_names(target, adapters)
    program: Any = engine
    weights = f"gguf-{kind_before(target.base, options.gguf_type)}" if engine == "llamacpp" else "16bit"
    if engine == "local":
        program, weights = ("mlx", target.weights_by_mlx) if target.by_mlx else ("transformers", weights)
    return look_before(
        target,
        adapters,
        engine=program,
        host=options.host,
        port=port,
        max_model_len=options.max_model_len,
        weights=weights,
        anyway=options.anyway,
        say=say,
    )


def command_of(
    engine: str, target: Target, adapters: Mapping[str, Target], looked: Preflight, options: ServeOptions
) -> list[str]:
    """The other program's command line."""
    target = target.for_others(looked.base)
    if engine == "vllm":
        return vllm_command(target, adapters, looked, host=options.host, port=options.port)
    return mlx_command(target, adapters, host=options.host, port=options.port, api_key=options.api_key)


def look_text(
    target: Target, adapters: Mapping[str, Target], options: ServeOptions, say: Say
) -> tuple[dict[str, Any], str]:
    """What ``--dry-run`` says: the command, and why this context."""
    engine, looked = look(target, adapters, options, say)
    words = command_of(engine, target, adapters, looked, options) if engine not in OURS else []
    values = {"engine": engine, "command": words, "max_model_len": looked.context, "why": looked.why}
    own = f"afina's own server{' over llama.cpp' if engine == 'llamacpp' else ''} at {options.url}/v1"
    what = show_command(words, options.api_key) if words else own
    speeds = [f"# {each.in_words}" for each in looked.speeds]
    return values, "\n".join([what, f"# context {looked.context}: {looked.why}", *speeds])


def settings_text(
    client: Client, target: Target, adapters: Mapping[str, Target], options: ServeOptions, say: Say
) -> str:
    """What ``--config`` prints."""
    engine = pick_engine(options.engine)
    looked = _look(target, adapters, options, engine, None, say)
    return client_settings(client, target.name, options.url, looked.context)


def check_running(target: Target, url: str, options: ServeOptions, stage: Stage = silent) -> Identity:
    """Compare a server that runs already with a run.

    Raises:
        RecipeError: `target` is not a run, or `url` no address.
    """
    if target.run is None:
        raise RecipeError(f"{target.base} is not a run: there is nothing to compare with", "name a run's folder")
    if not re.match(r"https?://[^/]", url):
        raise RecipeError(f"{url} is no address of a server", "write it as http://127.0.0.1:8000", "--check-url")
    check_address(options.host, options.api_key)
    ask = ask_over_http(url, options.api_key, target.chat)
    base = target.base_name if target.adapter else None
    allowed = 0.0 if options.engine == "local" else OTHER_ROUNDING
    with stage("identity") as progress:
        return check_identity(ask, target.run, target.name, base, allowed=allowed, progress=progress)


def serve(
    target: Target, adapters: Mapping[str, Target], options: ServeOptions, say: Say, stage: Stage = silent
) -> None:
    """Serve until the process is told to stop.

    Args:
        stage: shows how far the comparison with the run is.

    Raises:
        AfinaError: before the start, from :func:`look`.
        ResultError: the served model is not the trained one; the server is ended.
    """
    started = time.monotonic()
    engine, looked = look(target, adapters, options, say)
    say(f"preflight: {looked.context} tokens of context ({looked.why}); {time.monotonic() - started:.1f} s")
    for each in looked.speeds if engine in OURS and not target.by_mlx else ():  # they are torch's and llama.cpp's
        say(f"one answer at a time, {each.in_words}")
    if engine == "local":
        _serve_here(target, adapters, looked, options, say, stage)
        return
    if engine == "llamacpp":
        _serve_by_llama_cpp(target, adapters, looked, options, say, stage)
        return
    words = command_of(engine, target, adapters, looked, options)
    say(show_command(words, options.api_key))
    _serve_there(words, target.for_others(looked.base), adapters, options, say, stage)


def _serve_here(
    target: Target, adapters: Mapping[str, Target], looked: Preflight, options: ServeOptions, say: Say, stage: Stage
) -> None:
    from afina.model.generate.engine_torch import Engine
    from afina.serve.driver import Driver

    # In a thread that ends, and its OpenMP threads with it: a second team beside the driver's would be more threads
    # than cores, which then sleep at once instead of waiting a moment; a step would take half as long again.
    with ThreadPoolExecutor(1) as loader:
        models, warnings = loader.submit(open_models, target, adapters, options.device, say).result()
        for warning in warnings:
            say(f"warning: {warning}")
        stops, places = models.base.renderer.stop_ids(), options.places
        engine = loader.submit(Engine, models.model, models.tokenizer, stops, places=places, say=say).result()
    if engine.context is not None and engine.context < looked.context:
        say(f"prompt and answer have {engine.context} tokens together: up to there mlx-lm keeps the model's window")
    engine.context = min(engine.context or looked.context, looked.context)
    driver = Driver(engine, options.queue_limit)

    def prove() -> None:
        _prove_all(target, adapters, models.base.name, options, say, stage)

    _answer(models, driver, options, say, prove=prove)


def _serve_by_llama_cpp(
    target: Target, adapters: Mapping[str, Target], looked: Preflight, options: ServeOptions, say: Say, stage: Stage
) -> None:
    """Our routes before a llama.cpp server of our own, which has the base and every adapter as GGUF."""
    from afina.llamacpp.base_file import choose_base_file, write_base_file
    from afina.llamacpp.lora_write import write_lora
    from afina.llamacpp.program import LlamaCppOptions, name_of_llama_cpp, running_llama_cpp
    from afina.model.base_damage import read_config
    from afina.model.rounding import tolerance
    from afina.serve.llamacpp_driver import LlamaCppDriver
    from afina.serve.llamacpp_proof import explain_by_llama_cpp

    folder, models, warnings = name_models(target, adapters, say)
    for warning in warnings:
        say(f"warning: {warning}")
    renderer = models.base.renderer
    base = choose_base_file(target.base, folder, models.identity.weights_sha256, renderer, options.gguf_type)
    if base.given:
        say(f"the base is served from its own file: {base.file}")
    file, config = write_base_file(base, recipe_of(target, folder), renderer, say), read_config(folder)
    named = [each for each in models.served.values() if each.folder is not None]
    with temporary_folder("adapters") as place:
        loras = [place / f"{number}.gguf" for number in range(len(named))]
        for lora, each in zip(loras, named, strict=True):
            assert each.folder is not None
            written = write_lora(each.folder, config, lora, name=each.name)
            say(f"{each.name}: {written.pairs} matrices changed, as a GGUF adapter (nothing is merged)")
        with running_llama_cpp(LlamaCppOptions(file, loras, looked.context, looked.places)) as server:
            say(f"{name_of_llama_cpp()}, base in {base.kind}, {looked.places} answers at a time")
            driver = LlamaCppDriver(
                server,
                models.tokenizer,
                renderer.stop_ids(),
                int(config["vocab_size"]),
                adapters=len(loras),
                context=looked.context,
                places=looked.places,
                queue_limit=options.queue_limit,
            )

            def explain(name: str, asked: Stored, right: str, given: str) -> Parting:
                run = models.served[name].run or target.run
                assert run is not None
                return explain_by_llama_cpp(
                    server,
                    models.served,
                    driver.grammars.token_bytes,
                    renderer.stop_ids(),
                    longest=stored_answers(run)[1],
                    limit=tolerance(base.rounding)[1],
                )(name, asked, right, given)

            def prove() -> None:
                less = f"; or round less: in {base.kind} an adapter that changes much turns its own choices too"
                or_else = "" if base.rounding in ("f16", "f32") else f"{less} (--gguf-type f16)"
                _prove_all(target, adapters, models.base.name, options, say, stage, explain, or_else)

            _answer(models, driver, options, say, prove=prove)


def _answer(
    models: Models, driver: Answering, options: ServeOptions, say: Callable[[str], None], *, prove: Callable[[], None]
) -> None:
    """Serve until told to stop, or until what answers is proven wrong or has ended."""
    import uvicorn

    from afina.serve.app import make_app

    app = make_app(
        models,
        driver,
        api_key=options.api_key,
        change_adapters=options.change_adapters,
        origins=[origin_as_sent(each) or each for each in options.origins],
    )
    server = uvicorn.Server(
        uvicorn.Config(app, host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=60)
    )
    wrong: list[AfinaError] = []

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn lets what runs end, then raises the signal that it caught once more: here, so that it ends with 0.
    before = signal.signal(signal.SIGTERM, stop)

    def watch() -> None:
        while not server.started and not server.should_exit:
            time.sleep(0.05)
        try:
            if options.check:
                prove()
        except AfinaError as error:
            wrong.append(error)
            server.should_exit = True
            return
        unseen = "" if options.check else ", not compared with any run (--no-check)"
        say(f"serving {', '.join(models.served)} at {options.url}/v1{unseen}")
        while not server.should_exit:
            if driver.failure is not None:
                wrong.append(AfinaError(f"the engine has ended: {driver.failure}", "start again"))
                server.should_exit = True
            time.sleep(0.5)

    threading.Thread(target=watch, daemon=True).start()
    try:
        server.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    if wrong:
        raise wrong[0]


def _serve_there(
    words: list[str], target: Target, adapters: Mapping[str, Target], options: ServeOptions, say: Say, stage: Stage
) -> None:
    """Run another server, wait until it answers, compare."""
    import shutil

    if shutil.which(words[0]) is None:
        raise RecipeError(
            f"{words[0]} is not installed here", "see its own documentation; --dry-run prints the command"
        )
    key = {"VLLM_API_KEY": options.api_key} if options.api_key else {}
    process = subprocess.Popen(words, env=os.environ | {"VLLM_NO_USAGE_STATS": "1"} | key)

    def pass_on(number: int, _: object) -> None:
        process.send_signal(number)  # a server that outlives its parent would keep port and memory

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        _wait_for(options.url, process)
        proofs = _proofs(target, adapters, target.base if target.adapter else target.name)
        if (
            words[0] != "vllm"
        ):  # mlx_lm.server loads whatever name it is asked for; this one is what it was started with
            proofs = [("default_model", run, None) for _, run, _ in proofs]
        if options.check:
            for name, run, known in proofs:
                _prove(name, run, known, options, say, stage, ours=False)
        checked = "" if options.check and proofs else ", not compared with any run"
        say(f"serving at {options.url}/v1{checked}")
        if target.chat.system:
            say("note: the run's system message is afina's own; clients of this server have to send it themselves")
        process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=60)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError

    opener = opener_of(url)
    while process.poll() is None:
        try:
            with opener.open(f"{url}/health", timeout=5):  # asks for no key
                return
        except HTTPError as error:
            if error.code < 500:
                return
        except (OSError, HTTPException):
            pass
        time.sleep(1)
    raise AfinaError(
        f"the server ended with exit code {process.returncode} before it answered", "see what it said above"
    )


def _proofs(target: Target, adapters: Mapping[str, Target], base: str) -> list[tuple[str, Any, str | None]]:
    """What can be compared: (name, run, name of the base beside it)."""
    own = {target.name: target} if target.run else {}
    return [
        (name, each.run, base if each.adapter else None) for name, each in (own | dict(adapters)).items() if each.run
    ]


def _prove_all(
    target: Target,
    adapters: Mapping[str, Target],
    base: str,
    options: ServeOptions,
    say: Say,
    stage: Stage,
    explain: Explain | None = None,
    or_else: str = "",
) -> None:
    for name, run, known in _proofs(target, adapters, base):
        _prove(name, run, known, options, say, stage, explain, or_else, ours=True)


def _prove(
    name: str,
    run: Any,
    base: str | None,
    options: ServeOptions,
    say: Say,
    stage: Stage,
    explain: Explain | None = None,
    or_else: str = "",
    *,
    ours: bool,
) -> Identity:
    """
    Args:
        ours: whether the server is this process: it rounds as the run did, has room for all questions at once, and says
            itself when it cannot answer.
    """
    chat, seconds = find_target(str(run)).chat, None if ours else SECONDS
    with stage("identity") as progress:
        found = check_identity(
            ask_over_http(options.url, options.api_key, chat, seconds=seconds),
            run,
            name,
            base,
            allowed=0.0 if ours else OTHER_ROUNDING,
            explain=explain,
            at_once=options.places if ours else AT_ONCE,
            progress=progress,
        )
    say(found.describe())
    refuse_wrong(found, or_else)
    return found
