"""``afina eval``, ``score``, ``guardrails``, ``compare`` and ``report``: what was learned and what was broken."""

from pathlib import Path
from typing import Annotated

import typer

from afina.cli.arguments import AsJson, Places, RunFolder
from afina.cli.completions import complete_run
from afina.cli.opened import reopened
from afina.cli.output import choice, end_by, say, show


def evaluate(
    run: RunFolder,
    places: Places = None,
    lm_eval: Annotated[
        str | None, typer.Option(metavar="TASK,...", help="Only these benchmarks of lm-eval: names, or YAML files.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="With --lm-eval: only the first N items of each task.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a trained run before and after, and judge it. Exit code 5 when the recipe's limits are missed."""
    from afina.walk.describe import describe_scores
    from afina.walk.walk import do_stages

    if lm_eval:
        from afina.evaluate.benchmarks import describe_benchmarks
        from afina.walk.benchmarks import measure_benchmarks

        with reopened(run, places) as walk:
            rows = measure_benchmarks(walk, lm_eval.split(","), limit)
            show(rows, as_json, describe_benchmarks(rows))
        return
    with reopened(run, places) as walk:
        verdict = do_stages(walk, "tokens", "skills", "evaluate")
        show(verdict, as_json, describe_scores(run))
        end_by(verdict)


def score(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Rows with outputs: JSONL, JSON, CSV, TSV, Parquet or Arrow.")
    ],
    prediction: Annotated[
        list[str] | None, typer.Option(help="Column that a model wrote, the base first; recognised where not given.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Column of what it should have written.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Column of what it was asked.")] = None,
    by: Annotated[str | None, typer.Option(help="Column to group by, e.g. task.")] = None,
    language: Annotated[str | None, typer.Option(help="pt, en or none: whose articles do not count.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Only these, e.g. f1, rougeL, chrf.")] = None,
    choices: Annotated[str | None, typer.Option(help="The possible answers, for accuracy, e.g. A,B,C,D.")] = None,
    trained_on: Annotated[list[Path] | None, typer.Option(help="Training rows, to count those asked here too.")] = None,
    strip_leaks: Annotated[bool, typer.Option("--strip-leaks", help="Remove prompt text and chat markers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check stored outputs, then score them against their references."""
    from afina.progress import StageProgress
    from afina.score.columns import NamedColumns
    from afina.score.score import score_file
    from afina.score.table import describe_score

    with StageProgress("score") as progress:
        found = score_file(
            file,
            NamedColumns(prediction or [], reference, prompt or [], by),
            language=language,
            metrics=metric or [],
            choices=choices.split(",") if choices else [],
            trained_on=trained_on or [],
            strip_leaks=strip_leaks,
            progress=progress,
        )
    show(found.as_json(), as_json, describe_score(found))


def guardrails(
    samples: Annotated[
        list[Path],
        typer.Argument(metavar="SAMPLES...", help="Files of prompts and outputs (JSON, JSONL), runs, or reports."),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Cuts every text: SentencePiece's .model file, a folder, a base or a run."),
    ] = None,
    keep_prompts: Annotated[
        bool, typer.Option("--keep-prompts", help="Leave a prompt in that an output begins with.")
    ] = False,
    words: Annotated[
        list[Path] | None,
        typer.Option(metavar="TEXTS", help="Texts that people wrote, to tell broken words: file, folder or run."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how stored outputs are written: byte fallback, short pieces, circles, echoes, broken words."""
    from afina.evaluate.corpus_words import read_corpus
    from afina.evaluate.sample_report import measure_samples
    from afina.model.named_tokenizer import open_pieces
    from afina.progress import StageProgress

    with StageProgress("guardrails", quiet=as_json) as progress:
        table = open_pieces(tokenizer, say) if tokenizer else None
        corpus = read_corpus(words, progress) if words else None
        found = measure_samples(samples, table, corpus, keep_prompts=keep_prompts)
    show(found.as_json(), as_json, found.describe())


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of two or more runs.", autocompletion=complete_run),
    ],
    published: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Figures that others published, to stand beside them (YAML).")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it as one HTML page, with what it cost drawn.")
    ] = None,
    gate: Annotated[
        Path | None,
        typer.Option(
            metavar="LIMITS",
            help="Exit code 5 where the second run is worse than the first beyond chance, or misses these limits: a "
            "recipe's, a run's, or a file of them.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put the figures of several runs side by side: what each cost, and what it reached."""
    from afina.report.compare import compare_runs
    from afina.report.compare_page import write_comparison

    comparison = compare_runs(runs, published)
    weighed = None
    if gate is not None:
        from afina.report.gate import weigh_comparison

        weighed = weigh_comparison(comparison, gate)
    if page is not None:
        write_comparison(comparison, page)
    if weighed is None:
        show(comparison.as_json(), as_json, comparison.describe())
        return
    text = f"{comparison.describe()}\n\n{weighed.describe()}"
    show(comparison.as_json() | {"gate": weighed.as_json()}, as_json, text)
    end_by(weighed.as_json())


def report(
    run: RunFolder,
    form: Annotated[str, typer.Option("--format", metavar="FORM", help="html, md or json.")] = "html",
    language: Annotated[
        str | None,
        typer.Option(metavar="LANGUAGE", help="en, pt-BR or pt-PT; dataset.language where not given."),
    ] = None,
) -> None:
    """Write a run's report again: report.html, report.md, or report.json."""
    from afina.report.forms import FORMS, write_as
    from afina.report.language import LANGUAGES

    choice("--format", form, tuple(FORMS))
    if language is not None:
        choice("--language", language, LANGUAGES)
    print(write_as(run, form, language))
