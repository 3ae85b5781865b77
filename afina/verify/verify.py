"""``afina verify``: is an export the model that was judged, by the questions that it was to be judged by?

    proof/ ──> whole? ──> the committed questions, template, base? ──> scored again ──> asked again

Everything that can be looked at is looked at: one thing that is wrong does not hide the next.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from afina.errors import AfinaError, BaseError, DataError, RecipeError, ResultError
from afina.model.base import find_base, identify_base, read_adapter_config
from afina.recipe import Chat, Recipe
from afina.record import Record
from afina.run import Progress, hash_file, hash_value, no_progress, read_mapping
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.verify.commitment import COMMITMENT, COPY_AGAIN, PROBES, Commitment, code_hash, read_commitment
from afina.verify.proof import ASKED_AGAIN, BASE_SKILLS, FIRST, RECIPE, Proof, open_proof

if TYPE_CHECKING:
    from afina.verify.asked_again import AskedRow, OpenedAgain
    from afina.verify.questions import CommittedProbes

Item = TypeVar("Item")

SHA256 = re.compile("[0-9a-f]{64}")
NEEDED = ("language", "chat", "adapter", "precision", "batch_tokens", "max_length", "limits", "max_new_tokens")
"""Of a recipe."""
SHOWN = 12
"""Most of a kind that are printed; ``--json`` has all."""


@dataclass(frozen=True)
class VerifyOptions:
    """What the command line gives."""

    base: str | None = None
    commitment: str | None = None
    """The hash that was published."""
    questions: int | None = None
    """Ask only so many, drawn by whoever verifies."""


@dataclass
class Verification:
    """What came of it; `problems` decide."""

    export: str
    commitment: str = ""
    """SHA-256 of ``commitment.json``."""
    holds: list[str] = field(default_factory=list)
    """What was looked at and is as it should be."""
    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """What cannot be known from the export."""
    asked: int = 0
    equal: int = 0
    rounded: list[str] = field(default_factory=list)

    @property
    def answers(self) -> str:
        """equal, equal within rounding, not equal, or not asked."""
        if not self.asked:
            return "not asked"
        if self.equal == self.asked:
            return "equal"
        return "equal within rounding" if self.equal + len(self.rounded) == self.asked else "not equal"

    @property
    def passed(self) -> bool:
        return not self.problems and self.answers.startswith("equal")

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"answers": self.answers, "passed": self.passed}

    def describe(self) -> str:
        """For people: the result first, then what it stands on."""
        if self.passed:
            head = f"verified: {self.export} is the model that was judged, by the questions committed to"
        else:
            head = f"not verified: {self.export}"
        counts = f"{self.equal} of {self.asked} word for word" if self.asked else "see above"
        lines = [head, f"commitment {self.commitment}", f"answers: {self.answers} ({counts})"]
        for what, found in (
            ("wrong", self.problems), ("rounding", self.rounded), ("as it should be", self.holds),
            ("cannot be known", self.unknown),
        ):  # fmt: skip
            lines += [f"  {what}: {each}" for each in found[:SHOWN]]
            lines += [f"  {what}: and {len(found) - SHOWN} more (--json)"] if len(found) > SHOWN else []
        return "\n".join(lines)


def verify(
    export: Path, options: VerifyOptions, *, say: Callable[[str], None], progress: Progress = no_progress
) -> Verification:
    """Check an export.

    Raises:
        RecipeError: it carries no proof, or what is needed to ask it is not here.
        BaseError: no base is found to ask it over.
        ResultError: its proof is damaged.
    """
    if options.commitment is not None and not SHA256.fullmatch(options.commitment.strip().lower()):
        raise RecipeError(
            f"{options.commitment!r:.40} is no SHA-256: 64 letters 0-9 a-f",
            f"give what `sha256sum {COMMITMENT}` printed before the training, as it was published",
            "--commitment",
        )
    found = Verification(str(export))
    try:
        proof = open_proof(export)
        commitment = read_commitment(proof.folder)
    except AfinaError as error:
        if not is_damage(error):
            raise
        raise ResultError(problems=[replace(each, fix=COPY_AGAIN) for each in error.problems]) from error
    if commitment is None:
        raise ResultError(f"there is no {COMMITMENT} in the proof", COPY_AGAIN, str(proof.folder))
    found.commitment = commitment.sha256
    try:
        _look(proof, commitment, options, found, say, progress)
    except AfinaError as error:
        if not is_damage(error) and not found.problems:  # else it comes of what was found already
            raise
        found.problems += [f"{each.where}: {each.what}" if each.where else each.what for each in error.problems]
    return found


def is_damage(error: AfinaError) -> bool:
    """Whether an error says that a file is not what was written: of a proof that is a result, whoever published it has
    to give another; so is a template that refuses the questions. What is missing here, a base or a library, is not."""
    return type(error) is AfinaError or isinstance(error, DataError)


def _look(
    proof: Proof,
    commitment: Commitment,
    options: VerifyOptions,
    found: Verification,
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    """All steps, as far as each can be done."""
    _check_commitment(commitment, proof, options.commitment, found)
    _check_files(proof, found)
    recipe = _recipe(proof, commitment, found)
    if proof.holds not in ASKED_AGAIN:
        found.unknown.append(
            f"whether it answers as stored: it holds {proof.holds}, which is not asked here; verify an export "
            "--to hub-folder of the same run"
        )
        return
    renderer = Renderer(load_tokenizer(str(proof.export), recipe.chat), recipe.chat)
    base = _find_base(proof, options.base, say)
    same_base = _check_base(commitment, base, found)
    if (committed := _committed(proof, commitment, renderer, found)) is None:
        return
    checked = _Checked(proof, commitment, committed, recipe, renderer, found)
    _check_scores(checked)
    if proof.has_other_weights or not same_base:
        say("not asked: base or adapter is not what was measured")
        return
    _ask(checked, base, options.questions, progress)


@dataclass(frozen=True)
class _Checked:
    """An export whose answers belong to its questions, and what was found of it so far."""

    proof: Proof
    commitment: Commitment
    committed: CommittedProbes
    recipe: Recipe
    renderer: Renderer
    found: Verification


def _check_commitment(commitment: Commitment, proof: Proof, published: str | None, found: Verification) -> None:
    values, sha256 = commitment.values, commitment.sha256
    if published is None:
        found.unknown.append(
            "whether the commitment was made before the training: only a hash that was published then tells "
            f"(--commitment HASH); this one is dated {values.text('written')}, by the clock of whoever trained"
        )
    elif published.strip().lower() == sha256:
        found.holds.append("the commitment is the published one")
    else:
        found.problems.append(f"the commitment is not the published one: its hash is {sha256}")
    if after := values.text("after"):
        first = proof.folder / FIRST
        if not first.is_file() or hash_file(first) != after:
            found.problems.append(f"{FIRST} is not the commitment of the first training that {COMMITMENT} names")
        elif read_mapping(first, "probes")["probes"] != values.values["probes"]:
            found.problems.append("after the first of two trainings other questions were committed to than before it")
        else:
            found.holds.append(f"the questions were committed to before the first of two trainings ({after})")
    if values.text("starts_from"):
        found.unknown.append("what the weights that it started from had been trained on")
    if values.record("code").text("sha256") != code_hash():
        found.unknown.append(
            f"whether a difference comes of the code: afina {values.text('afina')} committed, and the code here is "
            "another state of it"
        )


def _check_files(proof: Proof, found: Verification) -> None:
    changed = proof.changed_files()
    found.problems += [f"proof/{name} is not what the export wrote" for name in changed]
    if not changed:
        found.holds.append("proof/ is as the export wrote it")
    if proof.has_other_weights:
        found.problems.append("the adapter's weights are not those whose answers are stored")
    changed = proof.changed_export()
    found.problems += [f"{name} is not what the export wrote" for name in changed]
    if not changed:
        found.holds.append("weights, settings and tokenizer are as the export wrote them")


def _recipe(proof: Proof, commitment: Commitment, found: Verification) -> Recipe:
    """The committed part of the recipe. Its template is the export's own, and no code that came with a base is run."""
    file = proof.folder / RECIPE
    known = read_mapping(file, *NEEDED)
    if hash_value(known) != commitment.values.text("checked_sha256"):
        found.problems.append(f"proof/{RECIPE} is not the recipe committed to: limits, lengths or template are others")
    else:
        found.holds.append("limits and settings are those committed to")
    # What was merged carries system text and arguments in its own template.
    chat = {} if proof.holds == "merged" else {**Record(known, str(file)).record("chat").values, "template": None}
    values = {
        "name": "verified",
        "base": str(proof.export),
        "root": str(proof.export),
        "sources": [{"path": "."}],
        "backend": "mlx" if _in_bits_of_mlx(commitment, Record(known, str(file))) else "torch",
        "dataset": {"language": known["language"]},
        "chat": chat,
        "adapter": known["adapter"],
        "train": {key: known[key] for key in ("precision", "batch_tokens", "max_length")},
        "evaluate": {key: known[key] for key in ("limits", "max_new_tokens")},
    }
    try:
        return Recipe.model_validate(values)
    except ValueError as error:  # pydantic's: a key or a value that this afina does not know
        raise AfinaError(f"is no recipe of this afina: {' '.join(str(error).split())[:200]}", "", str(file)) from error


def _in_bits_of_mlx(commitment: Commitment, recipe: Record) -> bool:
    """Whether MLX held the base in its own few bits, which nothing else reads as the same numbers."""
    computed = commitment.values.record("training").record("computed")
    return computed.text("backend") == "mlx" and recipe.record("adapter").text("kind") == "qlora"


def _find_base(proof: Proof, given: str | None, say: Callable[[str], None]) -> Path | None:
    if given:
        return find_base(given, say=say)
    if proof.holds == "merged":
        return None
    named = str(read_adapter_config(proof.export).get("base_model_name_or_path") or "")
    try:
        return find_base(named, say=say)
    except BaseError as error:
        what = f"the base that the adapter names, {named!r}, is not here: {error.problems[0].what}"
        raise BaseError(what, "say where it is: --base BASE", str(proof.export)) from error


def _check_base(commitment: Commitment, base: Path | None, found: Verification) -> bool:
    """Whether the base is the committed one, as far as one is here."""
    if base is None:
        found.unknown.append("whether the base answered as stored: it is asked where --base names it")
        return True
    known, promised = identify_base(base, str(base), load_tokenizer(str(base), Chat())), commitment.values
    pairs = {
        "weights": (known.weights_sha256, promised.record("base").text("weights_sha256")),
        "tokenizer": (known.tokenizer_sha256, promised.text("tokenizer_sha256")),
    }
    if other := [what for what, (mine, theirs) in pairs.items() if mine != theirs]:
        found.problems.append(f"{base} is not the base committed to: {' and '.join(other)} differ")
        return False
    found.holds.append("the base is the one committed to")
    return True


def _committed(proof: Proof, commitment: Commitment, renderer: Renderer, found: Verification) -> CommittedProbes | None:
    """The questions, held against commitment, template and answers; None where the answers are to others."""
    from afina.verify.questions import asked_hash, read_committed
    from afina.verify.scored_again import stored_rows

    if hash_file(proof.folder / PROBES) != commitment.values.required_record("probes").text("sha256"):
        found.problems.append(f"the questions (proof/{PROBES}) are not those committed to")
    else:
        found.holds.append("the questions are those committed to")
    committed = read_committed(proof.folder)
    template = hashlib.sha256((renderer.tokenizer.chat_template or "").encode()).hexdigest()
    if other := [each for each in committed.questions if asked_hash(renderer, each.question) != each.asked]:
        found.problems.append(
            f"{len(other)} of {len(committed.questions)} questions are asked in other tokens than committed to, such "
            f"as {other[0].question.prompt!r:.60}: template or tokenizer is another"
        )
    elif proof.holds == "adapter" and template != commitment.values.text("chat_template_sha256"):
        found.problems.append("the chat template is not the one committed to")
    else:
        found.holds.append("template and tokenizer ask in the tokens committed to")
    answered, asked = [row.text("id") for row in stored_rows(proof)], [each.id for each in committed.questions]
    made = [(row.text("prompt"), tuple(row.texts("sentences"))) for row in proof.rows("choices.jsonl")]
    if answered != asked or made != [(each.prompt, each.sentences) for _, each in committed.choices]:
        alone = len({*asked} - {*answered})
        found.problems.append(
            f"the stored answers are not to the questions committed to: {len(answered)} answers to {len(asked)} "
            f"questions, {alone} of which have none; {len(made)} choices made of {len(committed.choices)}"
        )
        return None
    found.holds.append(f"{len(asked)} answers and {len(made)} choices are to the questions committed to, one by one")
    return committed


def _check_scores(checked: _Checked) -> None:
    from afina.verify.scored_again import not_counted_again, score_again

    proof, found = checked.proof, checked.found
    other = list(_skills_otherwise(proof, checked.commitment.values.record("skills")))
    from_nothing = not checked.commitment.values.record("base")
    other += score_again(proof, checked.committed, checked.recipe, checked.renderer, from_nothing=from_nothing)
    found.problems += other
    if not other:
        found.holds.append("scores and verdict are what the stored answers give")
    if left := not_counted_again(proof):
        found.unknown.append(f"whether the figures of {', '.join(left)} are right: no stored answer tells them")


def _skills_otherwise(proof: Proof, promised: Record) -> Iterator[str]:
    """Where the answers about skills are not to the questions that the base was asked before the training."""
    from afina.evaluate.skills import items_hash

    file, both = proof.folder / BASE_SKILLS, proof.rows("skills.jsonl")
    if not promised:
        if both:
            yield "skills.jsonl: no question about skills was committed to"
        return
    if promised.text("questions") != items_hash():
        yield "the questions about skills are not those of this afina: verify by the afina that trained"
    if not file.is_file() or hash_file(file) != promised.text("asked_sha256"):
        yield f"{BASE_SKILLS}: these are not the answers about skills that were committed to"
    before = [(row.text("id"), row.text("base")) for row in proof.rows(BASE_SKILLS)]
    if both and [(row.text("id"), row.text("base")) for row in both] != before:
        yield "skills.jsonl: the base's answers are not those that it gave before the training"


def _ask(checked: _Checked, base: Path | None, questions: int | None, progress: Progress) -> None:
    """Ask the trained model again, and the base where it is here."""
    from afina.verify.asked_again import AskedAgain, ask_again, choose_again, open_again

    recipe, renderer, found = checked.recipe, checked.renderer, checked.found
    computed = checked.commitment.values.record("training").record("computed")
    opened = open_again(
        checked.proof.export,
        base,
        recipe,
        adapter=checked.proof.holds == "adapter",
        measured_in=computed.text("precision"),
        by_mlx=recipe.backend == "mlx",
    )
    rows, choices = _stored(checked)
    if questions is not None and questions < len(rows) + len(choices):
        found.unknown.append(
            f"how it answers the {len(rows) + len(choices) - questions} questions that were not drawn (--questions)"
        )
        rows, choices = _drawn(rows, choices, questions)
    again = AskedAgain()
    for name, model in _models(opened):
        with model as asked:
            again.add(ask_again(asked, renderer, rows, name, opened.limit, progress))
            if choices:
                again.add(choose_again(asked, renderer, choices, name, recipe, opened.limit, progress))
    found.asked, found.equal, found.rounded = again.asked, again.equal, again.rounded
    found.problems += again.wrong


def _models(opened: OpenedAgain) -> Iterator[tuple[str, AbstractContextManager[Any]]]:
    yield "adapter", nullcontext(opened.trained)
    if opened.base is not None:
        yield "base", opened.base()


def _stored(checked: _Checked) -> tuple[list[AskedRow], list[tuple[Any, Record]]]:
    """Every stored answer with its question, and every choice."""
    from afina.verify.asked_again import AskedRow
    from afina.verify.scored_again import skill_of, stored_rows

    room, takes_system = checked.recipe.evaluate.max_new_tokens, checked.renderer.template.takes_system
    stored = zip(checked.committed.questions, stored_rows(checked.proof), strict=True)
    rows = [AskedRow(each.question, row, room) for each, row in stored]
    for row in checked.proof.rows("skills.jsonl"):
        item = skill_of(row)
        rows.append(AskedRow(item.question(takes_system=takes_system), row, item.room))
    choices = zip(checked.committed.choices, checked.proof.rows("choices.jsonl"), strict=True)
    return rows, [(choice, row) for (_, choice), row in choices]


def _drawn(rows: Sequence[Item], choices: Sequence[Any], most: int) -> tuple[list[Item], list[Any]]:
    """So many of both, drawn by chance now: whoever wrote the answers cannot know which."""
    numbers = random.SystemRandom().sample(range(len(rows) + len(choices)), most)
    chosen = sorted(numbers)
    return (
        [rows[number] for number in chosen if number < len(rows)],
        [choices[number - len(rows)] for number in chosen if number >= len(rows)],
    )
