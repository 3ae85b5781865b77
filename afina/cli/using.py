"""``afina chat`` and ``serve``: talk to what was trained, or let programs do so."""

from typing import Annotated

import typer

from afina.cli.arguments import AsJson, Places, RunFolder
from afina.cli.completions import complete_run
from afina.cli.opened import reopened
from afina.cli.output import choice, end_by, say, show


def chat(
    run: RunFolder,
    places: Places = None,
    question: Annotated[str | None, typer.Option("--ask", help="Ask one question and end.")] = None,
    compare_base: Annotated[bool, typer.Option("--compare", help="Show the base's answer too.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Talk to what a run trained."""
    from afina.progress import read_line, show_answers
    from afina.serve.terminal_chat import Settings, answer_once, talk
    from afina.walk.base import renderer
    from afina.walk.models import open_trained

    with reopened(run, places, writes=False) as walk:
        model, base = open_trained(walk)
        before = base if compare_base else None
        if question is not None:
            answers = answer_once(model, before, renderer(walk), question, max_new_tokens, walk.tell)
            show(answers, as_json, "\n".join(f"{who}: {said}" for who, said in answers.items()))
        else:
            settings = Settings(max_new_tokens=max_new_tokens)
            talk(model, before, renderer(walk), settings, read=read_line, say=say, show=show_answers)


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|BASE", help="A run's folder, or a base's folder or hub id.", autocompletion=complete_run
        ),
    ],
    places: Places = None,
    adapters: Annotated[
        list[str] | None, typer.Option("--adapter", metavar="NAME=RUN", help="A further adapter of the same base.")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, local, llamacpp, vllm or mlx.")] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="AFINA_API_KEY", help="Key that clients must give.", show_default=False)
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, help="Longest context; what fits where not given.")
    ] = None,
    gguf_type: Annotated[
        str, typer.Option(help="With llamacpp, the base's weights: f16, q8_0, bf16, f32, or file: its own GGUF.")
    ] = "auto",
    anyway: Annotated[bool, typer.Option("--anyway", help="Serve a context that may not fit.")] = False,
    change_adapters: Annotated[
        bool, typer.Option("--change-adapters", help="Let clients load and unload adapters of this machine.")
    ] = False,
    cors: Annotated[
        list[str] | None,
        typer.Option("--cors", metavar="ORIGIN", help="A page that may ask by browser; * for any."),
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare the answers with the run's once it serves.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look, and print what would be run.")] = False,
    config: Annotated[str | None, typer.Option(help="Print a client's settings: aider, continue or openai.")] = None,
    check_url: Annotated[
        str | None, typer.Option("--check-url", metavar="URL", help="Compare a server that runs already with the run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a run or a base as OpenAI's API does, and prove that what answers is what was trained."""
    from afina.progress import StageProgress
    from afina.serve.opened import find_target
    from afina.serve.serve import ServeOptions, check_running, look_text, named_adapters, settings_text
    from afina.serve.serve import serve as start

    target, others = find_target(model, places or ()), named_adapters(adapters or [])
    options = ServeOptions(
        engine=choice("--engine", engine, ("auto", "local", "llamacpp", "vllm", "mlx")),
        host=host,
        port=port,
        api_key=api_key,
        max_model_len=max_model_len,
        anyway=anyway,
        change_adapters=change_adapters,
        origins=tuple(cors or ()),
        check=check,
        gguf_type=choice("--gguf-type", gguf_type, ("auto", "file", "f16", "q8_0", "bf16", "f32")),
    )
    if check_url is not None:
        found = check_running(target, check_url, options, StageProgress)
        show(found.as_json(), as_json, found.describe())
        end_by({"passed": not found.problems})
    elif config is not None:
        print(settings_text(choice("--config", config, ("aider", "continue", "openai")), target, others, options, say))
    elif dry_run:
        values, text = look_text(target, others, options, say)
        show(values, as_json, text)
    else:
        start(target, others, options, say, StageProgress)
