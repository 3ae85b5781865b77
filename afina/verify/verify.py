"""``afina verify``: is an export the model that was judged, by the questions that it was to be judged by?

    proof/ ──> whole? ──> the committed questions, template, base? ──> scored again ──> asked again

Everything that can be looked at is looked at: one thing that is wrong does not hide the next.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from afina.errors import AfinaError, BaseError, DataError, RecipeError, ResultError
from afina.model.base import find_base, identify_base, read_adapter_config
from afina.model.base_kind import GGUF_ENDING, kind_of, read_object
from afina.recipe import Chat, Recipe
from afina.record import Record
from afina.run import Progress, hash_file, hash_folder, hash_value, no_progress, read_mapping
from afina.text.answer_flaws import after_thinking
from afina.tokenizer.chat import Renderer
from afina.tokenizer.folding import folds_of
from afina.tokenizer.load import load_tokenizer
from afina.verify.commitment import AGAIN, COMMITMENT, COPY_AGAIN, PROBES, Commitment, code_hash, read_commitment
from afina.verify.proof import (
    ASKED_AGAIN,
    BASE_SKILLS,
    FIRST,
    RECIPE,
    SCORES,
    Proof,
    is_file_of,
    of_the_export,
    open_proof,
)

if TYPE_CHECKING:
    from afina.evaluate.probes import Question
    from afina.evaluate.scores import Scores
    from afina.evaluate.skills import SkillItem
    from afina.model.generate.generate_torch import Answer
    from afina.verify.asked_again import AskedRow, Held, OpenedAgain
    from afina.verify.beside_again import BesideAgain
    from afina.verify.held_against import HeldAgainst
    from afina.verify.questions import CommittedProbes

Item = TypeVar("Item")

SHA256 = re.compile("[0-9a-f]{64}")
NEEDED = ("language", "chat", "adapter", "precision", "batch_tokens", "max_length", "limits", "max_new_tokens")
"""Of a recipe."""
OF_DATASET = ("on_too_long", "on_not_rendered")
"""Keys of a recipe's dataset that say what becomes of rows as they are encoded."""
SHOWN = 12
"""Most of a kind that are printed; ``--json`` has all."""
SHOWN_OF_VERDICT = ("text", "passed", "misses")
WEIGHTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""How a model's weights are held, by the name in its ``config.json``."""


@dataclass(frozen=True)
class VerifyOptions:
    """What the command line gives."""

    base: str | None = None
    commitment: str | None = None
    """The hash that was published."""
    questions: int | None = None
    """Ask only so many, drawn by whoever verifies."""
    dataset: Path | None = None
    """The run's dataset folder, by which what an export does not hold is computed again."""


@dataclass
class Verification:
    """What came of it; `problems` decide."""

    export: str
    commitment: str = ""
    """SHA-256 of ``commitment.json``."""
    published: bool | None = None
    """Whether that is the hash that was given; None: none was, and nothing tells what came first."""
    holds: list[str] = field(default_factory=list)
    """What was looked at and is as it should be."""
    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """What cannot be known from the export."""
    verdict: dict[str, Any] | None = None
    """``text``, ``passed`` and ``misses`` of the verdict that was checked, which a card may tell otherwise."""
    asked: int = 0
    equal: int = 0
    rounded: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    """What is told beside the answers (:mod:`afina.verify.beside_again`) -> what came of computing it again."""
    figures_rounded: list[str] = field(default_factory=list)

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
        """For people: the result first, then what it stands on. What somebody else wrote stays in its line."""
        if self.passed:
            head = f"verified: {self.export} answers as the model that was judged, to the questions of its commitment"
            head += "" if self.published else "; whether these came before the training is not shown (see below)"
        elif not self.problems and not self.asked:
            head = f"not verified: {self.export} carries the proof and was not asked (see below)"
        else:
            head = f"not verified: {self.export}"
        counts = f"{self.equal} of {self.asked} word for word" if self.asked else "see above"
        lines = [head, f"commitment {self.commitment}", f"answers: {self.answers} ({counts})"]
        lines += [f"{name}: {outcome}" for name, outcome in self.figures.items()]
        if self.verdict:
            limits = "within its limits" if self.verdict["passed"] else "not within its limits"
            lines.append(f"the verdict: {self.verdict['text']}; {limits}")
        for what, found in (
            ("wrong", self.problems), ("rounding", [*self.rounded, *self.figures_rounded]),
            ("as it should be", self.holds), ("cannot be known", self.unknown),
        ):  # fmt: skip
            lines += [f"  {what}: {each}" for each in found[:SHOWN]]
            lines += [f"  {what}: and {len(found) - SHOWN} more (--json)"] if len(found) > SHOWN else []
        return "\n".join(map(_in_one_line, lines))


def _in_one_line(text: str) -> str:
    """A text without what would move a terminal's cursor or begin a line of its own.

    >>> _in_one_line("dated x\\nverified: yes\\x1b[2K, é")
    'dated x\\\\nverified: yes\\\\x1b[2K, é'
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


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
    beside: dict[str, HeldAgainst] = {}
    try:
        _look(proof, commitment, options, found, beside, say, progress)
    except AfinaError as error:
        if not is_damage(error) and not found.problems:  # else it comes of what was found already
            raise
        found.problems += [f"{each.where}: {each.what}" if each.where else each.what for each in error.problems]
    for name, held in beside.items():
        found.figures[name] = held.outcome
        found.problems += held.wrong
        found.figures_rounded += held.rounded
        found.unknown += [f"{name}: {each}" for each in held.left]
    return found


def is_damage(error: AfinaError) -> bool:
    """Whether an error says that a file is not what was written: of a proof or an export that is a result, whoever
    published it has to give another; so is a template that refuses the questions. What is missing here, a base or a
    library, is not."""
    return type(error) is AfinaError or isinstance(error, DataError | ResultError)


def _look(
    proof: Proof,
    commitment: Commitment,
    options: VerifyOptions,
    found: Verification,
    beside: dict[str, HeldAgainst],
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    """All steps, as far as each can be done.

    Args:
        beside: takes what comes of what is told beside the answers.
    """
    _check_published(commitment, proof, options.commitment, found)
    _check_origins(commitment, proof, found)
    _check_files(proof, found)
    data = _check_dataset(commitment, options.dataset, found)
    recipe, again = _recipe(proof, commitment, found)
    if (held := held_model(proof, found, say)) is None:
        return
    renderer = Renderer(of_the_export(load_tokenizer, str(held.folder), recipe.chat), recipe.chat)
    base = _find_base(proof, options.base, say)
    reads = None if base is None else load_tokenizer(str(base), Chat())
    same_base = _check_base(commitment, base, reads, found)
    if reads is not None and same_base:
        _check_tokenizer(proof, renderer, reads, found)
    if proof.holds != "gguf":  # the folder that is asked was written of it here
        _check_ends(held, renderer, found)
    if (committed := _committed(proof, commitment, renderer, found)) is None:
        return
    from afina.verify.beside_again import BesideAgain

    again_beside = BesideAgain(
        proof,
        commitment.values,
        committed,
        recipe,
        renderer,
        again,
        data,
        base,
        from_nothing=not commitment.values.record("base"),
        questions=options.questions,
        held=beside,
    )
    checked = _Checked(proof, commitment, committed, recipe, renderer, found, again_beside)
    _check_scores(checked)
    if proof.has_other_weights or not same_base:
        say("not asked: base or adapter is not what was measured")
        again_beside.leave("base or adapter is not what was measured")
        return
    _ask(checked, held, base, None if proof.holds == "gguf" else reads, options.questions, progress)


def held_model(proof: Proof, found: Verification, say: Callable[[str], None]) -> Held | None:
    """Where the model lies that is asked, and how; None where nothing here asks it."""
    from afina.verify.asked_again import Held

    export, holds = proof.export, proof.holds
    if holds == "adapter":
        return Held(export, adapter=True)
    found.unknown.append(
        "whether these weights are the trained ones, as the run's have another hash: their answers alone tell"
    )
    if holds == "gguf":
        files = sorted(export.glob("*" + GGUF_ENDING))
        if len(files) != 1:
            found.problems.append(f"it holds {len(files)} GGUF files, and is to hold one")
            return None
        from afina.model.gguf_file import read_gguf

        kinds = of_the_export(read_gguf, files[0]).quantization
        folder = of_the_export(partial(find_base, say=say), str(files[0]))
        return Held(folder, adapter=False, weights=next(iter(kinds), "f32").lower())
    if holds == "merged" or (holds == "mlx" and "transformers" in kind_of(export).opens):
        config = read_object(export / "config.json") or {}
        return Held(export, adapter=False, weights=WEIGHTS.get(str(config.get("dtype") or config.get("torch_dtype"))))
    opened = ", in bits that nothing here reads" if holds in ASKED_AGAIN else ""
    found.unknown.append(
        f"whether it answers as stored: it holds {holds}{opened}, which is not asked here; verify an export "
        "--to hub-folder of the same run"
    )
    return None


@dataclass(frozen=True)
class _Checked:
    """An export whose answers belong to its questions, and what was found of it so far."""

    proof: Proof
    commitment: Commitment
    committed: CommittedProbes
    recipe: Recipe
    renderer: Renderer
    found: Verification
    beside: BesideAgain


def _check_published(commitment: Commitment, proof: Proof, published: str | None, found: Verification) -> None:
    """What came first, which no file of the export can tell: whoever wrote the others wrote its date too."""
    values, sha256 = commitment.values, commitment.sha256
    if published is None:
        found.unknown.append(
            "whether the commitment was made before the training: only a hash that was published then tells "
            f"(--commitment HASH); this one is dated {values.text('written')}, by the clock of whoever trained"
        )
        return
    given = published.strip().lower()
    of_the_first = given == values.text("after") and is_file_of(proof.folder / FIRST, given)
    found.published = given == sha256 or of_the_first
    if of_the_first:
        found.holds.append("the commitment of the first of two trainings is the published one, and this one names it")
        found.unknown.append("whether what else the second training committed to was known before the first")
    elif found.published:
        found.holds.append("the commitment is the published one")
    else:
        found.problems.append(f"the commitment is not the published one: its hash is {sha256}")


def _check_origins(commitment: Commitment, proof: Proof, found: Verification) -> None:
    """The commitment before this one, and what else it says of where the weights come from."""
    values = commitment.values
    if after := values.text("after"):
        first = proof.folder / FIRST
        if not is_file_of(first, after):
            found.problems.append(f"{FIRST} is not the commitment of the first training that {COMMITMENT} names")
        elif read_mapping(first, "probes")["probes"] != values.values.get("probes"):
            found.problems.append("after the first of two trainings other questions were committed to than before it")
        else:
            found.holds.append(f"the questions were committed to before the first of two trainings ({after})")
    found.unknown.append("whether the weights come of the training committed to alone: only training again tells")
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
    if ends := proof.with_other_line_ends() if found.problems else ():
        found.problems.append(
            f"{len(ends)} of these files differ in their line ends alone, as git writes them on Windows: copy the "
            "export again, with `git config core.autocrlf false` or by `hf download`"
        )


def _check_dataset(commitment: Commitment, folder: Path | None, found: Verification) -> Path | None:
    """The dataset folder, where the committed one is at hand.

    Raises:
        RecipeError: the folder holds no dataset.
    """
    if folder is None:
        return None
    promised = commitment.values.record("dataset")
    files = {name: folder / f"{name}.jsonl" for name in ("train", "validation")}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        raise RecipeError(
            f"there is no {missing[0]} in {folder}",
            "name the run's folder dataset/ (RUN/dataset), or a copy of it",
            "--dataset",
        )
    if (test := folder / "test.jsonl").is_file() and "test" in promised:  # an earlier afina did not promise it
        files["test"] = test
    if (folder / "dataset/train.jsonl").is_file():
        found.problems.append(f"{folder} holds another dataset (dataset/), which would be read in its place")
        return None
    if other := [file.name for name, file in files.items() if hash_file(file) != promised.text(name)]:
        found.problems.append(f"{folder} is not the dataset committed to: {' and '.join(other)} differ")
        return None
    found.holds.append("the dataset is the one committed to")
    return folder


def _recipe(proof: Proof, commitment: Commitment, found: Verification) -> tuple[Recipe, Record]:
    """The committed part of the recipe, and of it the settings by which losses, safety and retrieval were measured. Its
    template is the export's own, and no code that came with a base is run."""
    file = proof.folder / RECIPE
    known = read_mapping(file, *NEEDED)
    known_as = Record(known, str(file), fix=COPY_AGAIN)
    again = known_as.record(AGAIN)
    if hash_value(known) != commitment.values.text("checked_sha256"):
        found.problems.append(f"proof/{RECIPE} is not the recipe committed to: limits, lengths or what is measured")
    else:
        found.holds.append("limits and settings are those committed to")
    chat = {**known_as.record("chat").values, "template": None}
    if proof.holds != "adapter":  # a model carries system text and arguments in its own template
        chat |= {"system": None, "template_args": {}}
    values = {
        "name": "verified",
        "base": str(proof.export),
        "root": str(proof.export),
        "sources": [{"path": "."}],
        "backend": "mlx" if proof.holds == "adapter" and _in_bits_of_mlx(commitment, known_as) else "torch",
        "dataset": {"language": known["language"]}
        | {key: value for key, value in again.values.items() if key in OF_DATASET},
        "chat": chat,
        "adapter": known["adapter"],
        "train": {key: known[key] for key in ("precision", "batch_tokens", "max_length")},
        "evaluate": {key: known[key] for key in ("limits", "max_new_tokens")}
        | {"retrieval": again.values.get("retrieval")},
        "safety": {key: value for key, value in again.record("safety").values.items() if key != "strings"},
    }
    try:
        return Recipe.model_validate(values), again
    except ValueError as error:  # pydantic's: a key or a value that this afina does not know
        what = f"is no recipe of this afina: {' '.join(str(error).split())[:200]}"
        # It is what was committed to, or that it is not was found above: nothing of it is wrong, it is only not read.
        fix = f"verify by the afina that trained ({commitment.values.text('afina')}), or by a newer one"
        raise RecipeError(what, fix, str(file)) from error


def _in_bits_of_mlx(commitment: Commitment, recipe: Record) -> bool:
    """Whether MLX held the base in its own few bits, which nothing else reads as the same numbers."""
    computed = commitment.values.record("training").record("computed")
    return computed.text("backend") == "mlx" and recipe.record("adapter").text("kind") == "qlora"


def _find_base(proof: Proof, given: str | None, say: Callable[[str], None]) -> Path | None:
    if given:
        return find_base(given, say=say)
    if proof.holds != "adapter":
        return None
    named = str(of_the_export(read_adapter_config, proof.export).get("base_model_name_or_path") or "")
    try:
        return find_base(named, say=say)
    except BaseError as error:
        what = f"the base that the adapter names, {named!r}, is not here: {error.problems[0].what}"
        raise BaseError(what, "say where it is: --base BASE", str(proof.export)) from error


def _check_base(commitment: Commitment, base: Path | None, tokenizer: Any, found: Verification) -> bool:
    """Whether the base is the committed one, as far as one is here.

    Args:
        tokenizer: the base's.
    """
    promised = commitment.values
    if base is None:
        named = "it is asked where --base names it" if promised.record("base") else "it was random numbers"
        found.unknown.append(f"whether the base answered as stored: {named}")
        return True
    known = identify_base(base, str(base), tokenizer)
    pairs = {
        "weights": (known.weights_sha256, promised.record("base").text("weights_sha256")),
        "tokenizer": (known.tokenizer_sha256, promised.text("tokenizer_sha256")),
    }
    if other := [what for what, (mine, theirs) in pairs.items() if mine != theirs]:
        found.problems.append(f"{base} is not the base committed to: {' and '.join(other)} differ")
        return False
    found.holds.append("the base is the one committed to")
    if hash_folder(base, "config.json") != promised.record("base").record("files").text("config"):
        found.unknown.append("whether a difference comes of the base's config.json, which is another revision's")
    return True


def _check_tokenizer(proof: Proof, renderer: Renderer, theirs: Any, found: Verification) -> None:
    """Whether the export's tokens stand for the texts that they stand for in its base, and end where the base's end.

    Args:
        theirs: the base's tokenizer.
    """
    mine = renderer.tokenizer
    if proof.holds == "gguf":
        found.unknown.append("whether its tokenizer is the base's: a GGUF holds its own, and its answers alone tell")
    elif mine.get_vocab() != theirs.get_vocab():
        found.problems.append("the export's tokenizer has other tokens than that of its base")
    elif mine.eos_token_id != theirs.eos_token_id:
        ends = f"{mine.eos_token!r:.40} instead of {theirs.eos_token!r:.40}"
        found.problems.append(f"the export's tokenizer has another end token than that of its base: {ends}")
    else:
        found.holds.append("its tokens and its end token are those of its base")


def _check_ends(held: Held, renderer: Renderer, found: Verification) -> None:
    """Whether other programs, which read of a file where an answer ends, end it where it was asked."""
    file = held.folder / "generation_config.json"
    if not file.is_file():
        return
    named = read_mapping(file).get("eos_token_id")
    named, stops = named if isinstance(named, list) else [named], renderer.stop_ids()
    if sorted(map(str, named)) != sorted(map(str, stops)):
        found.problems.append(f"{file.name} ends answers at the tokens {named!r:.60}, and they were asked with {stops}")
    else:
        found.holds.append(f"{file.name} ends answers where they were asked to end")


def _committed(proof: Proof, commitment: Commitment, renderer: Renderer, found: Verification) -> CommittedProbes | None:
    """The questions, held against commitment, template and answers; None where the answers are to others."""
    from afina.verify.questions import asked_hash, read_committed
    from afina.verify.scored_again import stored_rows

    if not is_file_of(proof.folder / PROBES, commitment.values.required_record("probes").text("sha256")):
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
    if proof.holds != "adapter":
        found.unknown.append("whether its template, which is its own, asks other questions as that committed to does")
    answered, asked = [row.text("id") for row in stored_rows(proof)], [each.id for each in committed.questions]
    made = [
        (row.text("probe"), row.text("role"), row.text("section"), row.text("prompt"), tuple(row.texts("sentences")))
        for row in proof.rows("choices.jsonl")
    ]
    chosen = [(probe.name, probe.role, each.cluster, each.prompt, each.sentences) for probe, each in committed.choices]
    if answered != asked or made != chosen:
        alone, twice = len({*asked} - {*answered}), (Counter(answered) - Counter(asked)).total()
        ordered = "" if Counter(answered) != Counter(asked) or answered == asked else ", in another order"
        found.problems.append(
            f"the stored answers are not to the questions committed to: {len(answered)} answers to {len(asked)} "
            f"questions, {alone} of which have none, and {twice} to no question or to one that has its own{ordered}; "
            f"{len(made)} choices made of {len(chosen)}" + ("" if made == chosen else ", which are others")
        )
        return None
    if not asked and not made:
        found.problems.append("no question was committed to: there is nothing that answers could be held against")
        return None
    found.holds.append(f"{len(asked)} answers and {len(made)} choices are to the questions committed to, one by one")
    return committed


def _check_scores(checked: _Checked) -> None:
    from afina.evaluate.scores import read_scores
    from afina.verify.scored_again import count_again, score_again

    proof, found = checked.proof, checked.found
    stored = read_scores(proof.folder)
    if stored and stored.verdict:
        found.verdict = {key: value for key, value in stored.verdict.as_json().items() if key in SHOWN_OF_VERDICT}
    other = list(skills_otherwise(proof, checked.commitment.values.record("skills")))
    promised = checked.commitment.values
    same_code = promised.record("code").text("sha256") == code_hash()
    counted = count_again(proof, checked.committed, checked.renderer, checked.beside.whole_data)
    missed = checked.beside.count(stored, counted) if stored else []
    other += score_again(
        proof,
        checked.committed,
        checked.recipe,
        counted,
        missed,
        from_nothing=not promised.record("base"),
        in_these_words=same_code,
    )
    if not same_code:
        found.unknown.append("whether the verdict's sentences say what its figures do: other code worded them")
    other += left_out(proof)
    found.problems += other
    if not other:
        found.holds.append("scores and verdict are what the stored answers give")
    if stored:
        _check_card(proof, stored, found, same_words=same_code)
        _say_what_is_not_checked(proof, found)


def _check_card(proof: Proof, stored: Scores, found: Verification, *, same_words: bool) -> None:
    """Whether the card beside the proof tells its scores.

    Args:
        same_words: whether this code may have written it; another state of it may word the same figures otherwise.
    """
    from afina.verify.card_again import read_card

    try:
        card = read_card(proof.export, stored, (proof.known.text("afina") or "") if same_words else "")
    except AfinaError as error:  # a figure that is none
        found.problems += [f"{each.where}: {each.what}" for each in error.problems]
        return
    found.problems += card.wrong
    found.holds += [card.holds] if card.holds else []
    found.unknown += [card.unknown] if card.unknown else []


def _say_what_is_not_checked(proof: Proof, found: Verification) -> None:
    from afina.verify.how_checked import not_checked, unknown_keys

    scores = read_mapping(proof.folder / SCORES)
    if told := not_checked(scores):
        found.unknown.append(f"what these of {SCORES} say, which nothing here tells: {', '.join(told)}")
    if other := unknown_keys(scores):
        found.unknown.append(f"what these of {SCORES} say, which this afina does not know: {', '.join(other)}")


def left_out(proof: Proof) -> Iterator[str]:
    """What the recipe measures, by the part of it that was committed to, and a verdict that passed does not show."""
    from afina.evaluate.scores import read_scores

    file, scores = proof.folder / RECIPE, read_scores(proof.folder)
    measured = Record(read_mapping(file), str(file), fix=COPY_AGAIN).record("measured")
    if scores is None or scores.verdict is None or not scores.verdict.passed:
        return
    there, tasks = scores.as_json(), [task.text("name") for task in scores.tasks]
    for part in ("safety", "continuations"):
        if measured.flag(part) and not there[part]:
            yield f"scores.json: it says that the run passed, and the recipe's {part} are left out"
    if missing := [name for name in measured.texts("tasks") if name not in tasks]:
        yield f"scores.json: it says that the run passed, and the recipe's tasks are left out: {', '.join(missing)}"


def skills_otherwise(proof: Proof, promised: Record) -> Iterator[str]:
    """Where the answers about skills are not to the questions that the base was asked before the training."""
    from afina.evaluate.skills import items_hash
    from afina.verify.scored_again import has_skills_to_lose

    file, both = proof.folder / BASE_SKILLS, proof.rows("skills.jsonl")
    if not promised:
        if both:
            yield "skills.jsonl: no question about skills was committed to"
        return
    if promised.text("questions") != items_hash():
        yield "the questions about skills are not those of this afina: verify by the afina that trained"
    if not is_file_of(file, promised.text("asked_sha256")):
        yield f"{BASE_SKILLS}: these are not the answers about skills that were committed to"
    before = [(row.text("id"), row.text("base")) for row in proof.rows(BASE_SKILLS)]
    if both and [(row.text("id"), row.text("base")) for row in both] != before:
        yield "skills.jsonl: the base's answers are not those that it gave before the training"
    if not both and has_skills_to_lose(proof):
        yield "skills.jsonl: the trained model's answers about skills are left out, and the base had skills to lose"


def _ask(
    checked: _Checked, held: Held, base: Path | None, reads: Any, questions: int | None, progress: Progress
) -> None:
    """Ask the trained model again, and the base where it is here.

    Args:
        reads: the base's tokenizer, which has to read what is written as the export's does; None: it is not asked.
    """
    from afina.verify.asked_again import AskedAgain, ask_again, choose_again, open_again

    recipe, renderer, found = checked.recipe, checked.renderer, checked.found
    computed = checked.commitment.values.record("training").record("computed")
    by_mlx = recipe.backend == "mlx"
    opened = open_again(held, base, recipe, measured_in=computed.text("precision"), by_mlx=by_mlx)
    rows, choices = _stored(checked)
    whole = questions is None or questions >= len(rows) + len(choices)
    if not whole and questions is not None:
        found.unknown.append(
            f"how it answers the {len(rows) + len(choices) - questions} questions that were not drawn (--questions)"
        )
        rows, choices = _drawn(rows, choices, questions)
    again = AskedAgain()
    for name, model in _models(opened):
        with model as asked:
            again.add(ask_again(asked, renderer, rows, name, opened.limit, progress, reads=reads))
            if choices:
                again.add(choose_again(asked, renderer, choices, name, recipe, opened.limit, progress))
            checked.beside.ask(name, asked, opened, progress, rows, whole=whole)
    found.asked, found.equal, found.rounded = again.asked, again.equal, again.rounded
    found.problems += [*again.wrong, *again.picked()]
    checked.beside.conclude(opened)


def _models(opened: OpenedAgain) -> Iterator[tuple[str, AbstractContextManager[Any]]]:
    yield "adapter", nullcontext(opened.trained)
    if opened.base is not None:
        yield "base", opened.base()


def _stored(checked: _Checked) -> tuple[list[AskedRow], list[tuple[Any, Record]]]:
    """Every stored answer with its question, and every choice."""
    from afina.verify.asked_again import AskedRow
    from afina.verify.scored_again import skill_of, stored_rows

    room, takes_system = checked.recipe.evaluate.max_new_tokens, checked.renderer.template.takes_system
    any_case = "case" in folds_of(checked.renderer.tokenizer)
    stored = zip(checked.committed.questions, stored_rows(checked.proof), strict=True)
    rows = [
        AskedRow(each.question, row, room, each.probe.role, partial(_holds, each.question, any_case))
        for each, row in stored
    ]
    for row in checked.proof.rows("skills.jsonl"):
        item = skill_of(row)
        question = item.question(takes_system=takes_system)
        rows.append(AskedRow(question, row, item.room, "skills", partial(_does, item)))
    choices = zip(checked.committed.choices, checked.proof.rows("choices.jsonl"), strict=True)
    return rows, [(choice, row) for (_, choice), row in choices]


def _holds(question: Question, any_case: bool, answer: Answer) -> bool:
    """Whether an answer holds what is right."""
    return question.grade(after_thinking(answer.text), any_case=any_case).said


def _does(item: SkillItem, answer: Answer) -> bool:
    """Whether an answer does as it was asked."""
    return item.grade(answer).said


def _drawn(rows: Sequence[Item], choices: Sequence[Any], most: int) -> tuple[list[Item], list[Any]]:
    """So many of both, drawn by chance now: whoever wrote the answers cannot know which."""
    numbers = random.SystemRandom().sample(range(len(rows) + len(choices)), most)
    chosen = sorted(numbers)
    return (
        [rows[number] for number in chosen if number < len(rows)],
        [choices[number - len(rows)] for number in chosen if number >= len(rows)],
    )
