"""How each figure of a proof is checked, and which are not: the one table, for the answer of ``afina verify`` and for
its page (``docs/verify.md``, written by ``make docs``).

A figure that has no row here is said to be unknown, and a test looks for it: none can be added without saying how it is
checked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from afina.page_marks import write_between

How = Literal["asked again", "computed again", "counted again", "held", "hash", "not checked"]
MEANING: Mapping[How, str] = {
    "asked again": "the model is asked, and answers so, within the rounding of its precision",
    "computed again": "the model is asked with the dataset at hand (`--dataset`); without it, not checked",
    "counted again": "follows from the stored answers, by the code of the evaluation",
    "held": "has to be what was committed to before the training, or what the export's own files are",
    "hash": "by its SHA-256, which the commitment names or is",
    "not checked": "stands as it was written; the answer says so",
}
NOT: How = "not checked"


@dataclass(frozen=True, slots=True)
class FigureCheck:
    """How some keys of a file are checked."""

    file: str
    keys: tuple[str, ...]
    """Paths, places in lists left out; ``*`` is anything."""
    how: How
    by: str
    """In words."""


def _of(file: str, keys: str, how: How, by: str) -> FigureCheck:
    return FigureCheck(file, tuple(keys.split()), how, by)


_SCORES, _COMMITMENT = "scores.json", "commitment.json"
_SIDES = "{0}.before.* {0}.after.*"
CHECKED: tuple[FigureCheck, ...] = (
    _of(_SCORES, "verdict.learned verdict.broke verdict.text verdict.passed", "counted again",
        "judged again by the limits committed to"),
    _of(_SCORES, "verdict.misses verdict.findings", "counted again",
        "by the code that committed: none may be left out or worded otherwise; by another the words are not compared"),
    _of(_SCORES, "verdict.notes", NOT, "of its notes those that follow from guardrails and retrieval have to be there"),
    _of(_SCORES, "guardrails.answers guardrails.before.* guardrails.after.*", "counted again", "answer by answer"),
    _of(_SCORES, "guardrails.limits.*", "held", "the recipe's"),
    _of(_SCORES, "guardrails.room.*.limit guardrails.room.*.reached guardrails.room.*.circling", "counted again",
        "of the answers that were cut"),
    _of(_SCORES, "guardrails.room.*.ceiling guardrails.room.*.ended", "asked again",
        "those that were cut, with more room (all of them, without `--questions`)"),
    _of(_SCORES, "probes.name probes.role probes.n probes.clusters probes.shown probes.before.* probes.after.* "
        "probes.change.* probes.broken.* probes.groups.*", "counted again",
        "of the answers to the questions committed to; `terms_made_up` with `--dataset` alone"),
    _of(_SCORES, " ".join(_SIDES.format(key) for key in ("loss", "replay_loss", "pairs")), "computed again",
        "on the rows that were held out"),
    _of(_SCORES, "intrinsic.* windows.*", "computed again", "on the rows and windows that were held out"),
    _of(_SCORES, "retrieval.passages retrieval.probes.*", "counted again",
        "and with `--dataset` the passages are searched for and the base is asked"),
    _of(_SCORES, "retrieval.searched retrieval.tokens.* retrieval.fewer retrieval.left_out", "computed again",
        "by the search in the dataset"),
    _of(_SCORES, "retrieval.seconds.*", NOT, "a clock told them once"),
    _of(_SCORES, "continuations.prompts continuations.seeds continuations.temperature continuations.tokenizer "
        "continuations.greedy.* continuations.sampled.*", "counted again", "of the stored texts, written again"),
    _of(_SCORES, "continuations.corpus.*", "computed again", "of the words of the dataset"),
    _of(_SCORES, "safety.shares.*", "counted again",
        "of the stored answers, which are asked again; what was given back of the training rows with `--dataset`"),
    _of(_SCORES, "safety.canaries.*", "computed again", "asked for again; what was drawn is held against chance"),
    _of(_SCORES, " ".join(f"safety.{key}" for key in ("notes", "not_run")), NOT,
        "words of the run; what its recipe asks for has to be there"),
    _of(_SCORES, "tasks.name tasks.n tasks.items tasks.rows tasks.seeds tasks.trained_on tasks.notes tasks.language "
        "tasks.normalization.* tasks.normalization tasks.code.language tasks.code.ran tasks.code.samples", "held",
        "what was committed to of the task"),
    _of(_SCORES, "tasks.findings.name tasks.findings.prediction tasks.findings.count tasks.metrics.* "
        "tasks.code.results.*", "counted again", "of the stored answers; of code, of what these say its programs did"),
    _of(_SCORES, "tasks.findings.what tasks.findings.fix tasks.findings.groups.* tasks.findings.examples.* "
        "tasks.code.compiler tasks.code.temperature tasks.code.examples.*", NOT, "words and examples"),
    _of(_SCORES, "folds", "held", "what the export's tokenizer folds"),
    _of(_SCORES, "judge.*", NOT, "an endpoint's words: nothing here can ask for them again"),
    _of("predictions.jsonl, samples.jsonl", "id prompt reference fact terms messages* tools* probe role", "held",
        "the questions committed to"),
    _of("predictions.jsonl, samples.jsonl", "base adapter base_stopped adapter_stopped", "asked again", "greedily"),
    _of("predictions.jsonl, samples.jsonl", "base_correct adapter_correct base_is adapter_is base_flaws adapter_flaws",
        "counted again", "of the answer; `never_stops` is asked again with more room"),
    _of("choices.jsonl", "probe role prompt sentences section", "held", "the choices committed to"),
    _of("choices.jsonl", "base_correct adapter_correct", "asked again", "which sentence is ranked first"),
    _of("choices.jsonl", "base_scores adapter_scores", "counted again", "that they put first what is marked"),
    _of("skills.jsonl", "id prompt messages* reference probe role", "held", "afina's own questions"),
    _of("skills.jsonl", "base adapter base_stopped adapter_stopped", "asked again", "greedily"),
    _of("skills.jsonl", "base_correct adapter_correct", "counted again", "by the rules of the question"),
    _of("task_predictions.jsonl", "task prompt asked messages* reference among checks* drawn_by", "held",
        "the questions committed to"),
    _of("task_predictions.jsonl", "base adapter base_stopped adapter_stopped", "asked again", "greedily"),
    _of("task_predictions.jsonl", "base_scores.* adapter_scores.*", "counted again", "of the answer"),
    _of("task_predictions.jsonl", "base_result adapter_result base_lines adapter_lines base_samples.* "
        "adapter_samples.*", NOT, "programs are not run again, and samples of code not drawn again"),
    _of("safety.jsonl", "measure language system prompt kind", "held", "afina's own questions"),
    _of("safety.jsonl", "base adapter base_stopped adapter_stopped", "asked again", "greedily"),
    _of("safety.jsonl", "base_counts adapter_counts", "counted again",
        "of the answer; of what stands in the training rows, asked for again with `--dataset`"),
    _of("retrieval.jsonl", "set probe role question passages holding", "computed again",
        "the questions committed to, and the passages that are found"),
    _of("retrieval.jsonl", "base base_stopped", "computed again", "the base is asked with the passages"),
    _of("retrieval.jsonl", "base_counts base_correct base_scores", "counted again", "of the answer"),
    _of("continuations.jsonl", "prompt seed temperature", "held", "the prompts committed to, afina's seeds"),
    _of("continuations.jsonl", "output stopped token_ids", "asked again",
        "greedily; a sampled text has to be what its seed draws"),
    _of("continuations.jsonl", "tokens fallback short tokenizer flaws", "counted again", "of the text"),
    _of("continuations.jsonl", "broken_words", "computed again", "by the words of the dataset"),
    _of("probes.jsonl, base-skills.jsonl", "*", "hash", "the commitment's"),
    _of(_COMMITMENT, "version probes.* checked_sha256 tokenizer_sha256 chat_template_sha256 base.* skills.* tasks.* "
        "prompts.*", "held", "the export's files and the base at hand; all of it by the hash that was published"),
    _of(_COMMITMENT, "dataset.*", "held", "the dataset, where `--dataset` gives it"),
    _of(_COMMITMENT, "after", "hash", "the first commitment, which lies beside it"),
    _of(_COMMITMENT, "code.* afina", "held", "whether the code here is the same is said"),
    _of(_COMMITMENT, "recipe_sha256 training.* read.* starts_from written", NOT,
        "needs the run itself; fixed by the hash that was published"),
    _of("recipe.json", "*", "hash", "the commitment's"),
    _of("proof.json", "files.* export.*", "hash", "of each file there is"),
    _of("proof.json", "trained_sha256", "held", "an adapter's weights; a merged or converted model answers for itself"),
    _of("proof.json", "version holds afina trained", NOT, "what is asked, and how, follows from `holds`"),
)  # fmt: skip
"""By file, in the order of the page."""
BESIDE: tuple[FigureCheck, ...] = (
    _of("weights, settings, tokenizer", "all that a program reads", "hash", "`proof.json`, and their answers"),
    _of("README.md", "its verdict, misses and the section Scores", "held", "`scores.json`"),
    _of("README.md", "all else, and comparison.json", NOT, "anybody may rewrite it"),
)
"""What an export holds outside of its proof."""


def paths_of(value: Any, path: str = "") -> Iterator[str]:
    """The path of every figure, text and truth value in plain values, places in lists left out; null tells nothing.

    >>> sorted(set(paths_of({"a": [{"b": 1}, {"b": None, "c": [2, 3]}], "d": {}})))
    ['a.b', 'a.c']
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from paths_of(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from paths_of(item, path)
    elif value is not None:
        yield path


def rows_for(file: str, path: str) -> list[FigureCheck]:
    """The rows of the table that a path of a file belongs to: one, or the table is wrong."""
    return [
        each
        for each in CHECKED
        if file in each.file.split(", ") and any(fnmatchcase(path, pattern) for pattern in each.keys)
    ]


def not_checked(scores: Mapping[str, Any]) -> list[str]:
    """The keys of ``scores.json`` that tell something which nothing here checks, as the table has them."""
    told = set(paths_of(scores))
    return [
        key.removesuffix(".*")
        for each in CHECKED
        if each.file == _SCORES and each.how == NOT
        for key in each.keys
        if any(fnmatchcase(path, key) for path in told)
    ]


def unknown_keys(scores: Mapping[str, Any]) -> list[str]:
    """Paths of ``scores.json`` that the table does not know: another afina's, or somebody's own."""
    return sorted({path for path in paths_of(scores) if not rows_for(_SCORES, path)})


def table() -> str:
    """The table as Markdown."""
    lines = [f"- **{how}**: {meaning}" for how, meaning in MEANING.items()]
    lines += ["", "| file | what | how | by |", "|---|---|---|---|"]
    for each in (*CHECKED, *BESIDE):
        keys = ", ".join(f"`{key}`" for key in each.keys) if each in CHECKED else " ".join(each.keys)
        lines.append(f"| {each.file} | {keys} | {each.how} | {each.by} |")
    return "\n".join(lines)


if __name__ == "__main__":
    write_between(Path(sys.argv[1]), "checked", table())
