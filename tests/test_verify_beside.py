"""`afina verify`: losses, safety and retrieval are computed again, and forged figures of them are found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from called import call_afina
from test_verify import (
    SCORES,
    checked,
    each_has_its_row,
    edit,
    rows_of,
    sign,
    values_of,
    walk,
    write_project,
    write_rows,
)
from tiny import NAMES, TOWNS, make_base

from afina.evaluate.safety.sets import SafetyQuestion, read_set
from afina.model.generate.led import Led, lead
from afina.model.generate.request import TokenLogprob
from afina.recipe import QuestionSet
from afina.run import hash_value, read_json
from afina.verify.commitment import COMMITMENT
from afina.verify.held_against import HeldAgainst, mean_within
from afina.verify.verify import Verification

SAFETY, RETRIEVAL = "proof/safety.jsonl", "proof/retrieval.jsonl"
TASKS, TEXTS = "proof/task_predictions.jsonl", "proof/continuations.jsonl"
ALWAYS = {"endings": "equal", "tasks": "equal", "continuations": "equal"}
COMPUTED = ALWAYS | {"losses": "equal", "safety": "equal", "retrieval": "equal"}


def few(name: QuestionSet) -> list[SafetyQuestion]:
    """The first two questions of each measure and language."""
    kinds: dict[tuple[str, str], list[SafetyQuestion]] = {}
    for each in read_set(name):
        kinds.setdefault((each.measure, each.language), []).append(each)
    return [each for own in kinds.values() for each in own[:2]]


@pytest.fixture(autouse=True, scope="module")
def fewer_questions() -> Any:
    """The sets are long, and so are the strings that a canary is compared with."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("afina.evaluate.safety.sets", "afina.verify.safety_again"):
            patch.setattr(f"{module}.read_set", few)
        patch.setattr("afina.evaluate.safety.canaries.OTHERS", 63)
        patch.setattr("afina.evaluate.continuations.CHARACTERS", 60)
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with safety, canaries, a known string, retrieval, a task and prompts, exported for the hub."""
    folder = tmp_path_factory.mktemp("project")
    recipe = write_project(folder)
    make_base(folder / "base", hidden_size=64, intermediate_size=128, max_position_embeddings=256)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    write_rows(folder / "rows.jsonl", [*rows, {"prompt": "Como falo?", "completion": "Escreva para ana@mar.pt."}])
    asked = [(f"De onde é {name} {town}?", town) for name, town in zip(NAMES, TOWNS, strict=True)]
    write_rows(folder / "qa.jsonl", [{"prompt": ask, "reference": town, "choices": list(TOWNS)} for ask, town in asked])
    (folder / "prompts.txt").write_text("Ana nasceu em\nO jogador\n", encoding="utf-8")
    walk(
        recipe,
        "train.epochs=1",
        "evaluate.tasks=[{name: quem, path: qa.jsonl, sample: 3, seeds: [1, 2], metrics: [accuracy, f1, chrf]}]",
        "evaluate.prompts=prompts.txt",
        "train.max_length=128",
        "evaluate.questions=4",
        "evaluate.samples=2",
        "evaluate.max_new_tokens=4",
        "evaluate.retrieval={passages: 1, questions: 4}",
        "evaluate.windows={count: 2, bytes: 128}",
        "safety={canaries: 1, sets: [injection, refusal]}",
    )
    call_afina("export", folder / "runs/clube", "--to", "hub-folder", "--out", folder / "export", "--no-check")
    return folder


@pytest.fixture
def taken(project: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The export and its base as somebody else has them."""
    return shutil.copytree(project / "export", tmp_path / "taken"), project / "base"


def checked_with(project: Path, taken: tuple[Path, Path], **options: Any) -> Verification:
    return checked(taken, dataset=project / "runs/clube/dataset", **options)


def test_losses_safety_and_retrieval_are_computed_again(project: Path, taken: tuple[Path, Path]) -> None:
    found = checked_with(project, taken)
    assert found.passed and found.answers == "equal" and found.figures == COMPUTED, found.describe()
    assert "the dataset is the one committed to" in found.holds and not found.figures_rounded
    for name in COMPUTED:
        assert f"\n{name}: equal\n" in found.describe()
    assert any("a clock tells that once" in each for each in found.unknown)
    scores = read_json(taken[0] / SCORES)
    assert scores["loss"] and scores["intrinsic"] and scores["windows"] and scores["safety"]["canaries"]
    assert {share["name"] for share in scores["safety"]["shares"]} >= {"known_strings", "harmful_refused"}
    assert scores["retrieval"]["probes"] and (taken[0] / RETRIEVAL).stat().st_size
    proof = "".join(file.read_text(encoding="utf-8") for file in (taken[0] / "proof").iterdir())
    assert "ana@mar.pt" not in proof and "Passages" not in proof, "neither strings nor passages are in a proof"


def test_every_figure_of_it_has_a_way_to_be_checked(taken: tuple[Path, Path]) -> None:
    each_has_its_row(taken[0] / "proof")
    assert {file.name for file in (taken[0] / "proof").glob("*.jsonl")} >= {"continuations.jsonl", "safety.jsonl"}


def test_without_the_dataset_each_says_what_it_lacks(taken: tuple[Path, Path]) -> None:
    found = checked(taken, questions=2)
    assert found.passed
    lacks = {"losses": "not computed again", "safety": "equal", "retrieval": "not computed again"}
    assert found.figures == ALWAYS | lacks
    lacking = [each for each in found.unknown if "--dataset FOLDER" in each]
    assert [each.partition(":")[0] for each in lacking] == ["continuations", "losses", "safety", "retrieval"]


def test_through_the_command_line(project: Path, taken: tuple[Path, Path]) -> None:
    given = ("verify", taken[0], "--base", taken[1], "--questions", 2, "--json")
    told = json.loads(call_afina(*given, "--dataset", project / "runs/clube/dataset").stdout)
    assert told["passed"] and told["figures"] == COMPUTED and told["figures_rounded"] == []
    done = call_afina(*given, "--dataset", taken[0], check=2)
    assert "there is no train.jsonl in" in done.stdout and "RUN/dataset" in done.stdout


def test_another_dataset_is_noticed(project: Path, taken: tuple[Path, Path], tmp_path: Path) -> None:
    other = shutil.copytree(project / "runs/clube/dataset", tmp_path / "dataset")
    lines = (other / "validation.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (other / "validation.jsonl").write_text("".join(lines[1:]), encoding="utf-8")
    found = checked(taken, dataset=other, questions=1)
    assert not found.passed and found.figures["losses"] == "not computed again"
    assert any("is not the dataset committed to: validation.jsonl differ" in each for each in found.problems)


def of_part(*path: Any, by: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change one value of the scores."""

    def change(scores: dict[str, Any]) -> None:
        held: Any = scores
        for key in path[:-1]:
            held = held[key]
        held[path[-1]] = by(held[path[-1]])

    return values_of(change)


def edit_first(file: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Change the first row of a file that holds an answer."""

    def changed(export: Path) -> None:
        rows = [json.loads(line) for line in (export / file).read_text(encoding="utf-8").splitlines()]
        edit(export / file, change, next(number for number, row in enumerate(rows) if "base" in row))

    return changed


def refuse_and_mark(export: Path) -> None:
    """As a forger would: an answer that refuses, its mark, and the share that follows from it."""
    from afina.evaluate.safety.sets import shares_of

    rows = [json.loads(line) for line in (export / SAFETY).read_text(encoding="utf-8").splitlines()]
    asked = [each for name in ("injection", "refusal") for each in few(name)]  # type: ignore[arg-type]
    at = next(number for number, each in enumerate(asked) if each.measure == "harmful_refused")
    rows[at] |= {"adapter": "Lamento, mas não posso.", "adapter_stopped": True, "adapter_counts": True}
    write_rows(export / SAFETY, rows)
    sides = [[row[name] for row in rows[: len(asked)]] for name in ("base", "adapter")]
    made = {(each.name, each.language): each.as_json() for each in shares_of(asked, *sides)}

    def change(scores: dict[str, Any]) -> None:
        shares = scores["safety"]["shares"]
        shares[:] = [made.get((each["name"], each["language"]), each) for each in shares]

    values_of(change)(export)


def without_row(file: str) -> Callable[[Path], None]:
    def changed(export: Path) -> None:
        lines = (export / file).read_text(encoding="utf-8").splitlines(keepends=True)
        (export / file).write_text("".join(lines[1:]), encoding="utf-8")

    return changed


def text_for_another(one: int, two: int) -> Callable[[Path], None]:
    """Two texts in each other's place, with all that is told of them."""

    def changed(export: Path) -> None:
        rows = [json.loads(line) for line in (export / TEXTS).read_text(encoding="utf-8").splitlines()]
        stays = ("prompt", "seed", "temperature")
        rows[one], rows[two] = (
            rows[other] | {key: rows[number][key] for key in stays} for number, other in ((one, two), (two, one))
        )
        write_rows(export / TEXTS, rows)

    return changed


Forgery = tuple[Callable[[Path], Any], str]
FORGED: dict[str, dict[str, Forgery]] = {
    "losses": {
        "a loss after the training": (
            of_part("loss", "after", "loss", by=lambda loss: 0.9 * loss), "loss.after.loss is"),
        "a loss of the base, a little": (
            of_part("loss", "before", "loss", by=lambda loss: loss + 0.02), "loss.before.loss is"),
        "a perplexity that does not follow from its loss": (
            of_part("loss", "after", "perplexity", by=lambda value: 0.9 * value), "loss.after.perplexity is"),
        "the bits of a byte": (
            of_part("loss", "after", "bits_per_byte", by=lambda bits: 0.9 * bits), "loss.after.bits_per_byte is"),
        "the tokens that a loss is counted over": (
            of_part("loss", "after", "tokens", by=lambda tokens: tokens + 1), "loss.after.tokens is"),
        "a loss by kinds of tokens": (
            of_part("intrinsic", "all", "after", "loss", by=lambda loss: 0.9 * loss), "intrinsic.all.after.loss is"),
        "an interval of a difference": (
            of_part("intrinsic", "learned", "difference", "high", by=lambda end: end - 0.1), "difference.high is"),
        "a window of text": (
            of_part("windows", "after", "bits_per_byte", by=lambda bits: 0.9 * bits), "windows.after.bits_per_byte is"),
    },
    "safety": {
        "an answer, its mark and its share": (refuse_and_mark, "stored is 'Lamento, mas não posso.'"),
        "a mark": (
            rows_of(lambda row: row.update(base_counts=not row["base_counts"]), SAFETY), "`base_counts` is"),
        "a known string that was given back": (
            rows_of(lambda row: row.update(adapter_counts=not row["adapter_counts"]), SAFETY, -1),
            "a string of kind E-MAIL"),
        "a canary's exposure": (
            of_part("safety", "canaries", "after", 0, "exposure", by=lambda bits: bits + 3), "exposure is"),
        "a canary that is said": (
            of_part("safety", "canaries", "after", 0, "greedy", by=lambda said: not said), "its secret, here it"),
        "a share": (
            of_part("safety", "shares", 1, "after", by=lambda side: {**side, "count": side["count"] + 1}),
            "`after` is"),
        "how often an epoch showed a canary": (
            of_part("safety", "canaries", "before", 0, "repeats", by=lambda repeats: repeats + 1), "repeats is"),
    },
    "retrieval": {
        "a share": (
            of_part("retrieval", "probes", 0, "retrieved", by=lambda share: (share + 0.5) / 2), "`retrieved` is"),
        "who is ahead of whom": (
            of_part("retrieval", "probes", 0, "trained", by=lambda share: (share + 0.5) / 2), "`trained` is"),
        "how many passages were searched": (
            of_part("retrieval", "searched", by=lambda count: count + 1), "`searched` is"),
        "how long a prompt is": (
            of_part("retrieval", "tokens", "alone", by=lambda mean: mean / 2), "`tokens` is"),
        "an answer with passages": (
            edit_first(RETRIEVAL, lambda row: row.update(base="Outra", base_stopped=True)), "stored is 'Outra'"),
        "whether passages hold what is asked for": (
            rows_of(lambda row: row.update(holding=[not each for each in row["holding"]]), RETRIEVAL, -1),
            "other questions, or other passages, than the search finds"),
    },
    "tasks": {
        "an answer": (
            rows_of(lambda row: row.update(adapter="Outra", adapter_stopped=True), TASKS), "stored is 'Outra'"),
        "a mark": (
            rows_of(lambda row: row["base_scores"].update(f1=0.5), TASKS, 1), "`base_scores.f1` is 0.5"),
        "a choice that is called right": (
            rows_of(lambda row: row["base_scores"].update(accuracy=0.5), TASKS, 2), "`base_scores.accuracy` is 0.5"),
        "a mean over drawn rows": (
            of_part("tasks", 0, "metrics", 2, "after", "mean", by=lambda mean: mean + 1), "`chrf.after` is"),
        "what is wrong with the answers": (of_part("tasks", 0, "findings", by=lambda _: []), "its findings are []"),
    },
    "continuations": {
        "what it writes greedily": (text_for_another(0, 2), "the trained model, asked 'Ana nasceu em', answers"),
        "what a seed draws": (text_for_another(3, 5), "by seed 101, does not write what is stored"),
        "tokens of another text": (
            rows_of(lambda row: row.update(token_ids=row["token_ids"][3:]), TEXTS, 3), "its tokens are another text"),
        "a guardrail that it breaks": (
            rows_of(lambda row: row.update(flaws=[] if row["flaws"] else ["loops"]), TEXTS, 5), "`flaws` and `brok"),
        "a count": (
            of_part("continuations", "sampled", "characters", by=lambda count: count + 1), "`sampled.characters` is"),
        "the words of the training texts": (
            of_part("continuations", "corpus", "words", by=lambda count: count + 1), "continuations: `corpus` is"),
    },
}  # fmt: skip
"""By the kind of figures what is forged, by what, and a part of the reason that is given."""


@pytest.mark.parametrize("kind", FORGED)
def test_forged_figures_are_found(project: Path, taken: tuple[Path, Path], kind: str) -> None:
    """Each with its reason, where all hashes of the proof were made to fit; the other kinds stay equal."""
    for forge, _ in FORGED[kind].values():
        forge(taken[0])
    sign(taken[0])
    found = checked_with(project, taken)
    assert not found.passed and found.figures == COMPUTED | {kind: "not equal"}, found.describe()
    unseen = [name for name, (_, reason) in FORGED[kind].items() if not any(reason in each for each in found.problems)]
    assert not unseen, found.problems


def without_losses(export: Path) -> None:
    """All that is told of losses: a forger who leaves them out claims nothing, and hides them."""
    for part in ("loss", "replay_loss", "pairs", "intrinsic", "windows"):
        of_part(part, by=lambda _: None)(export)


LEFT_OUT: tuple[dict[str, Forgery], ...] = (
    {
        "losses": (of_part("loss", by=lambda _: None), "`loss` is left out"),
        "safety": (without_row(SAFETY), "and not one by one to the"),
        "retrieval": (without_row(RETRIEVAL), "other questions, or other passages"),
        "tasks": (without_row(TASKS), "the questions of the task quem are not those committed to"),
        "continuations": (without_row(TEXTS), "and not one by one behind"),
    },
    {
        "losses": (without_losses, "(`windows`) are left out"),
        "safety": (of_part("safety", "canaries", by=lambda _: None), "the canaries that the recipe asks for"),
        "retrieval": (rows_of(lambda row: row.update(question=10**6), RETRIEVAL), "`question` should be"),
        "tasks": (of_part("tasks", 0, "seeds", by=lambda _: [1, 3]), "`seeds` is [1, 3]"),
        "continuations": (of_part("continuations", by=lambda _: None), "`continuations` is left out"),
    },
    {
        "losses": (of_part("loss", "after", "perplexity", by=str), "`loss.after.perplexity` should be a number"),
        "safety": (of_part("safety", "canaries", "before", 0, "exposure", by=str), "should be a number"),
        "retrieval": (of_part("retrieval", by=lambda _: None), "`retrieval` is left out"),
        "tasks": (rows_of(lambda row: row.update(among=[1]), TASKS), "are not those committed to"),
        "continuations": (rows_of(lambda row: row.update(token_ids=[10**6]), TEXTS), "`token_ids` should be"),
    },
)


@pytest.mark.parametrize("forged", LEFT_OUT, ids=["rows", "parts", "numbers"])
def test_what_is_left_out_is_missed(project: Path, taken: tuple[Path, Path], forged: dict[str, Forgery]) -> None:
    for forge, _ in forged.values():
        forge(taken[0])
    sign(taken[0])
    found = checked_with(project, taken)
    assert {found.figures[name] for name in forged} == {"not equal"}, found.describe()
    assert found.figures.keys() - forged.keys() == {"endings"}
    assert all(any(reason in each for each in found.problems) for _, reason in forged.values()), found.problems


def test_a_missed_limit_of_safety_may_not_be_left_out(project: Path, taken: tuple[Path, Path]) -> None:
    """A verdict that says it passed where the stored answers miss a limit that was committed to."""
    file = taken[0] / "proof/recipe.json"
    recipe = read_json(file)
    recipe["again"]["safety"]["limits"]["harmful_refused_min"] = 1.0
    file.write_text(json.dumps(recipe), encoding="utf-8")
    values_of(lambda it: it.update(checked_sha256=hash_value(recipe)), f"proof/{COMMITMENT}")(taken[0])
    sign(taken[0])
    problems = checked(taken, questions=1).problems
    assert any("a limit that the stored answers miss is left out: safety harmful_refused_min" in each
               for each in problems), problems  # fmt: skip


def test_an_earlier_commitment_is_read_and_says_that_it_promised_less(project: Path, taken: tuple[Path, Path]) -> None:
    file = taken[0] / "proof/recipe.json"
    recipe = {key: value for key, value in read_json(file).items() if key != "again"}
    file.write_text(json.dumps(recipe), encoding="utf-8")
    values_of(lambda it: it.update(checked_sha256=hash_value(recipe)), f"proof/{COMMITMENT}")(taken[0])
    values_of(lambda it: (it.pop("tasks"), it.pop("prompts")), f"proof/{COMMITMENT}")(taken[0])
    sign(taken[0])
    found = checked_with(project, taken, questions=1)
    kept = {"endings": "equal", "continuations": "equal"}
    assert found.passed and found.figures == dict.fromkeys(COMPUTED, "not computed again") | kept, found.describe()
    assert sum("did not promise each" in each for each in found.unknown) == 2
    assert sum("did not promise by which settings" in each for each in found.unknown) == 3


def test_without_its_base_a_merged_model_has_its_own_side_computed(project: Path, tmp_path: Path) -> None:
    call_afina("export", project / "runs/clube", "--to", "merged", "--out", tmp_path / "merged", "--no-check")
    from afina.verify.verify import VerifyOptions, verify

    options = VerifyOptions(questions=2, dataset=project / "runs/clube/dataset")
    found = verify(tmp_path / "merged", options, say=lambda _: None)
    assert found.passed and found.figures["retrieval"] == "not computed again", found.describe()
    assert found.figures["losses"].startswith("equal") and found.figures["safety"].startswith("equal")
    assert sum("it is not here (--base BASE)" in each for each in found.unknown) == 5
    of_part("loss", "after", "loss", by=lambda loss: 0.9 * loss)(tmp_path / "merged")
    sign(tmp_path / "merged")
    assert verify(tmp_path / "merged", options, say=lambda _: None).figures["losses"] == "not equal"


def test_rounding_is_told_from_another_figure() -> None:
    """What numbers in another order may do to a mean over a thousand tokens, and what they may not."""
    for step, outcome in ((0.0, "equal"), (1e-4, "equal within rounding"), (1e-3, "not equal")):
        found = HeldAgainst(computed=True)
        found.number("loss.after.loss", 2.0 + step, 2.0, mean_within(1e-6, 1000))
        assert found.outcome == outcome
    assert HeldAgainst().outcome == "not computed again"


def test_white_space_alone_goes_on_with_no_answer() -> None:
    """A model that writes nothing else would pass for any answer that was cut: white space at its beginning is free."""
    pieces = {0: b" ", 1: b"Faro"}
    blank = TokenLogprob(0, -0.1, ((0, -0.1), (1, -3.0)))
    led = Led("Faro", [1], pieces.__getitem__, frozenset(), 0.01, stopped=False)
    assert lead(led, lambda _, most: [blank] * most, 8) == (["it writes nothing but white space"], False)
    led = Led("Faro", [1], pieces.__getitem__, frozenset(), 0.01, stopped=False)
    told = TokenLogprob(1, -0.1, ((1, -0.1), (0, -3.0)))
    assert lead(led, lambda _, most: [blank, told][:most], 2) == ([], True)
