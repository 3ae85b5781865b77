"""The walk: sources -> dataset -> audit -> plan -> train -> evaluate -> report, into one folder.

Each step is a stage of the run (:meth:`afina.run.Run.stage`): done once, skipped when nothing that
it depends on has changed, done again with a word on what changed otherwise. Every verb of the
command line that works in a run's folder is one or more of these steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from afina import __version__
from afina.errors import AfinaError, DataError, ResultError
from afina.model.choices import CHOSEN, Precision
from afina.recipe import Train
from afina.run import (
    Progress,
    Run,
    hash_file,
    hash_value,
    whole_folder,
    write_json,
)
from afina.walk.computing import choices_of, peak_flops_of, tracking_of, what_it_took, with_choices

if TYPE_CHECKING:
    from afina.manifest import Kind
    from afina.train.ranks import Ranks

NOT_IN_THE_RESULT = {"checkpoint_seconds", "keep_checkpoints", "validate_per_epoch", "tries", "trackers", "parallel"}
NOT_IN_THE_RESULT |= {"checkpoint_activations", *CHOSEN}
"""Settings of the loop that change when something is written or computed, never what is learned; and those that
stand among the inputs as they were chosen."""
REFERENCE_STAGE, REFERENCE = "reference", "reference.jsonl"
"""For DPO: the model before training judges every pair."""
BEFORE_TRAINING = ("dataset", "audit", "tokenizer", "plan", "first", REFERENCE_STAGE)
"""Stages whose time counts against the budget when training begins."""

StageProgress = Callable[[str], contextlib.AbstractContextManager[Progress]]
"""Opens the progress display of a stage."""


@dataclass(frozen=True)
class Training:
    """One of the stages of training: ``train``, or with ``train.first`` in the recipe also ``first`` before it."""

    name: str
    settings: Train

    @property
    def folder(self) -> str:
        """Where it writes, below the run's folder."""
        return "first/" if self.name == "first" else ""

    @property
    def rows(self) -> Literal["first", "second"]:
        """Which examples it learns, as :meth:`~afina.recipe.Recipe.stage_of` calls them."""
        return "first" if self.name == "first" else "second"


class Walk:
    """The stages of one run. Open the run first; see :meth:`everything` for the order."""

    def __init__(self, run: Run, stage_progress: StageProgress, ranks: Ranks | None = None) -> None:
        self.run, self.recipe, self.folder = run, run.recipe, run.folder
        self.stage_progress, self.ranks = stage_progress, ranks
        """`ranks`: the processes that train together; None where this one is alone."""
        self.confirm: Callable[[str], bool] | None = None
        """Asks a person before a long job; none where there is none."""

    def everything(self) -> dict[str, Any]:
        """The whole walk; returns the verdict's values."""
        from afina.evaluate.code_answers import check_compilers
        from afina.train.trackers import check_installed

        (self.folder / "finished.json").unlink(missing_ok=True)
        check_installed(self.recipe.train.trackers)
        if "evaluate" not in self.run.stages:  # what it needs is said before hours of training, not after
            check_compilers(self.recipe)
        _ = self.base_folder  # a base that is not there is said before any work is done
        self.dataset()
        self.audit()
        self.plan()
        self.train()
        verdict = self.evaluate()
        self.manifest()
        self.report(verdict)
        return verdict

    # ---- data

    @property
    def teacher_folder(self) -> Path:
        """Where the teacher's answers are kept: beside the runs, so that a redone or a new run pays for none twice."""
        from afina.dataset.build.build import TEACHER_FOLDER

        return self.folder.parent / TEACHER_FOLDER

    def dataset(self, *, ask_again: bool = False) -> dict[str, Any]:
        """Build ``dataset/`` from the sources; see :func:`afina.walk.data.build`."""
        from afina.walk.data import build

        return build(self, ask_again=ask_again)

    def audit(self) -> dict[str, Any]:
        """Look for what is wrong with the dataset; see :func:`afina.walk.data.audit`.

        Raises:
            DataError: a finding is fatal and the recipe does not accept it by name.
        """
        from afina.walk.data import audit

        return audit(self)

    def tell(self, text: str) -> None:
        """What a stage found, indented below its name."""
        self.run.say("\n".join(f"    {line}" for line in text.splitlines()))

    @property
    def dataset_hash(self) -> str:
        return str(self.run.stages["dataset"]["outputs"])

    # ---- base, tokenizer, rows

    @cached_property
    def base_folder(self) -> Path | None:
        """The base's folder, checked; None for a model from scratch."""
        from afina.model.base import check_length, find_base

        recipe = self.recipe
        if recipe.base is None:
            return None
        folder = find_base(recipe.base, revision=recipe.base_revision, trust_remote_code=recipe.trust_remote_code)
        check_length(folder, recipe.train.max_length)
        return folder

    @cached_property
    def base_files(self) -> dict[str, str]:
        """Hashes of everything in the base that the result depends on."""
        from afina.model.base import hash_model

        return {} if self.base_folder is None else hash_model(self.base_folder)

    @cached_property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer is: the base's, or one trained here on the training examples."""
        if self.base_folder is not None:
            return self.base_folder
        inputs = {"dataset": self.dataset_hash, "vocab": self.recipe.scratch.vocab}
        self.run.stage("tokenizer", inputs, ["tokenizer"], self._train_tokenizer)
        return self.folder / "tokenizer"

    def _train_tokenizer(self) -> dict[str, Any]:
        from afina.text.example import read_examples
        from afina.tokenizer.bpe import train_bpe

        def texts() -> Iterator[str]:
            for example in read_examples(self.folder / "dataset/train.jsonl"):
                yield from [example.text] if example.text else [turn["content"] for turn in example.messages]

        with self.stage_progress("tokenizer"), whole_folder(self.folder / "tokenizer") as beside:
            return {"vocab": train_bpe(texts(), self.recipe.scratch.vocab, beside, self.recipe.train.max_length)}

    @cached_property
    def renderer(self) -> Any:
        from afina.tokenizer.chat import Renderer
        from afina.tokenizer.load import load_tokenizer

        tokenizer = load_tokenizer(
            str(self.tokenizer_folder),
            self.recipe.chat,
            root=Path(self.recipe.root),
            trust_remote_code=self.recipe.trust_remote_code,
        )
        return Renderer(tokenizer, self.recipe.chat)

    @cached_property
    def rows(self) -> dict[str, tuple[Any, Any]]:
        """Encoded training and validation sets, of each stage of training.

        Raises:
            DataError: a stage has nothing to learn.
        """
        from afina.text.example import Example, read_examples
        from afina.tokenizer.encode import encode_examples

        def examples(split: str, rows: str) -> Iterator[Example]:
            for example in read_examples(self.folder / f"dataset/{split}.jsonl"):
                if self.recipe.stage_of(example.source, example.kind) == rows:
                    yield example

        found: dict[str, tuple[Any, Any]] = {}
        for training in self.trainings:
            with self.stage_progress("encode") as progress:
                train, validation = (
                    encode_examples(examples(split, training.rows), self.renderer, self.recipe, progress)
                    for split in ("train", "validation")
                )
            for name, encoded in (("train", train), ("validation", validation)):
                for reason, tokens in encoded.dropped.items():
                    places = ", ".join(encoded.dropped_examples[:5])
                    count = len(encoded.dropped_examples)
                    self.tell(f"{name}: {count} examples with {tokens} tokens left out, {reason}: {places}")
            if not train.rows and self.recipe.train.first:
                raise DataError(
                    f"the {training.rows} stage of training has nothing to learn",
                    f"give sources for {training.settings.method}, set `stage` on one, or remove `train.first`",
                    "sources",
                )
            found[training.name] = train, validation
        return found

    @cached_property
    def trainings(self) -> list[Training]:
        """The stages of training, in their order."""
        train = self.recipe.train
        return [*([Training("first", train.of_first())] if train.first else []), Training("train", train)]

    # ---- plan

    def plan(self) -> dict[str, Any]:
        """Whether it fits, how long it takes, what it costs; writes ``plan.json``.

        Raises:
            DoesNotFit: even the low end of the estimate does not fit the device or the budget.
        """
        from afina.walk.planning import look_ahead

        inputs = {
            "dataset": self.dataset_hash,
            "base": self.base_files,
            "recipe": self.recipe.model_dump(mode="json", include={"adapter", "scratch", "train", "budget", "chat"}),
            **self.recipe.stages,
            **({"ranks": self.ranks.world} if self.ranks else {}),
        }
        return self.run.stage("plan", inputs, ["plan.json"], lambda: look_ahead(self))

    def probe(self) -> Any:
        """Three real steps on this machine, and the plan that they narrow; nothing of them is kept but the plan.

        Raises:
            DoesNotFit: memory ran out on the way.
        """
        from afina.walk.planning import probe

        self.dataset()
        return probe(self)

    # ---- train

    @property
    def outcome(self) -> Kind:
        """Name of the folder that training leaves: ``adapter`` or, where every weight is trained, ``model``."""
        whole = self.recipe.train.method == "scratch" or self.recipe.adapter.kind == "none"
        return "model" if whole else "adapter"

    def _train_inputs(self, training: Training) -> dict[str, Any]:
        parts = {"adapter", "chat", "seed", "dataset", "scratch"}
        recipe = self.recipe.model_dump(mode="json", include=parts) | self.recipe.stages
        unused = NOT_IN_THE_RESULT | {"first"}  # of which the outcome counts
        if training.settings.patience:  # when it may end
            unused = unused - {"validate_per_epoch"}
        if not training.settings.learns_preferences:
            unused = unused | {"beta", "label_smoothing"}
        recipe["train"] = training.settings.model_dump(mode="json", exclude=unused)
        if training is not self.trainings[0]:
            recipe["starts_from"] = self.run.stages["first"]["outputs"]
        if training.settings.method == "dpo" and REFERENCE_STAGE in self.run.stages:
            recipe[REFERENCE_STAGE] = self.run.stages[REFERENCE_STAGE]["outputs"]
        recipe["on_too_long"] = recipe.pop("dataset")["on_too_long"]  # `dataset` is the hash of what was built
        if self.recipe.train.method == "scratch":
            del recipe["adapter"]
        else:
            del recipe["scratch"]
        return with_choices(self, training.name, {"dataset": self.dataset_hash, "base": self.base_files, **recipe})

    def train(self) -> dict[str, Any]:
        """Train, resuming from the newest whole checkpoint; leaves ``adapter/`` or ``model/``.

        With ``train.first`` the adapter or model of that stage is in ``first/``, its checkpoints beside it.
        """
        from afina.walk.planning import note_measured

        def train_and_note(training: Training, inputs: dict[str, Any]) -> dict[str, Any]:
            measured = self._train(training, inputs)
            note_measured(self, measured)
            return measured

        result: dict[str, Any] = {}
        for training in self.trainings:
            if training.settings.method == "dpo":
                self._judge_by_reference(training)
            inputs = self._train_inputs(training)
            outputs = [training.folder + name for name in ("checkpoints", self.outcome)]
            self.run.begin(training.name, inputs, outputs)
            train = partial(train_and_note, training, inputs)
            result = self.run.stage(training.name, inputs, outputs[1:], train, keep_replaced=True)
        if self.ranks:
            self.ranks.leave()
        return result

    def _judge_by_reference(self, training: Training) -> None:
        """Write ``reference.jsonl``: what the model says of every pair before it is trained by DPO."""
        from afina.train.preference import write_reference
        from afina.train.switches import products_in

        inputs = self._train_inputs(training)
        precision = inputs["computed"]["precision"]

        def judge() -> dict[str, Any]:
            rows = [row for encoded in self.rows[training.name] for row in encoded.rows]
            model, device = self._start_model(training, precision)
            with self.stage_progress(REFERENCE_STAGE) as progress, products_in(precision, device):
                write_reference(
                    model,
                    rows,
                    self.folder / REFERENCE,
                    pad_id=self._pad_id,
                    device=device,
                    batch_tokens=training.settings.batch_tokens,
                    progress=progress,
                )
            return {"pairs": len(rows)}

        inputs["computed"] = {"precision": precision}
        inputs["train"] = {name: inputs["train"][name] for name in ("batch_tokens", "max_length")}
        inputs.pop(REFERENCE_STAGE, None)
        self.run.stage(REFERENCE_STAGE, inputs, [REFERENCE], judge)

    def _train(self, training: Training, inputs: dict[str, Any]) -> dict[str, Any]:
        """Every rank does this, with a model and rows of its own; only the first one writes."""
        from afina.model.adapter_torch import save_trained
        from afina.train.loop_torch import train
        from afina.train.preference import Preferences, read_reference
        from afina.walk.together import model_of_rank, put_together

        rows, validation = self.rows[training.name]
        if training.settings.method == "dpo":
            read_reference(self.folder / REFERENCE, [*rows.rows, *validation.rows])
        choices, fingerprint = choices_of(self, inputs), hash_value(inputs)
        self.run.say(f"{training.name}: {choices}")
        if self.ranks:
            model, device = model_of_rank(self, training, choices.precision)
        else:
            model, device = self._start_model(training, choices.precision)
        peak_flops, source = peak_flops_of(device, choices.precision)
        if peak_flops and self.ranks:
            peak_flops *= self.ranks.world
        started = time.time()
        tracking = tracking_of(self, training, fingerprint)
        with tracking as log, self.stage_progress(training.name) as progress:
            log("computing", **asdict(choices), device=str(device), peak_flops=peak_flops, peak_flops_source=source)
            state = train(
                model,
                rows.rows,
                validation.rows,
                choices.settings(training.settings),
                seed=self.recipe.seed,
                pad_id=self._pad_id,
                device=device,
                checkpoints=self.folder / training.folder / "checkpoints",
                fingerprint=fingerprint,
                log=log,
                say=self.run.say,
                progress=progress,
                lora_plus_ratio=1.0 if self.outcome == "model" else self.recipe.adapter.lora_plus_ratio,
                budget=self.recipe.budget,
                earlier_seconds=sum(
                    stage["seconds"]
                    for name, stage in self.run.stages.items()
                    if name in BEFORE_TRAINING and name != training.name
                ),
                peak_flops=peak_flops,
                objective=Preferences(training.settings) if training.settings.learns_preferences else None,
                ranks=self.ranks,
            )
        weights = put_together(model, self.ranks)
        if self.ranks and not self.ranks.first:
            return {}
        with whole_folder(self.folder / training.folder / self.outcome) as beside:
            save_trained(model, beside, weights)
            self.renderer.tokenizer.save_pretrained(beside)
            if self.outcome == "adapter":
                write_json(beside / "afina.json", {"base": self.identity.as_json(), "afina": __version__})
        took = what_it_took(model, state, device, peak_flops) | {"ranks": self.ranks.world if self.ranks else 1}
        return took | choices.as_json() | {"wall_seconds": round(time.time() - started, 3)}

    def _start_model(
        self, training: Training, precision: Precision | None = None, device: Any = None
    ) -> tuple[Any, Any]:
        """The model as it is before the first step of a stage of training; on the recipe's device where not given."""
        from afina.model.load_torch import load_base, open_adapter, pick_device

        if training is self.trainings[0]:
            return self._fresh_model(precision, device)
        recipe, before = self.recipe, self.folder / "first" / self.outcome
        device = device or pick_device(recipe.device)
        if self.outcome == "model":
            return load_base(before, recipe, device, precision=precision).requires_grad_(True), device
        assert self.base_folder is not None
        four_bit = recipe.adapter.kind == "qlora"
        model = load_base(self.base_folder, recipe, device, four_bit=four_bit, precision=precision)
        return open_adapter(model, before, trainable=True), device

    def _fresh_model(self, precision: Precision | None = None, device: Any = None) -> tuple[Any, Any]:
        """The model as it is before anything is trained; its base in the precision of training, or what suits here."""
        from afina.model.load_torch import attach_adapter, load_base, make_model, pick_device

        recipe, device = self.recipe, device or pick_device(self.recipe.device)
        if self.base_folder is None:
            return make_model(recipe, len(self.renderer.tokenizer), self.renderer.tokenizer, device), device
        four_bit = recipe.adapter.kind == "qlora"
        model = load_base(self.base_folder, recipe, device, four_bit=four_bit, precision=precision)
        if recipe.adapter.kind == "none":
            model.requires_grad_(True)
            return model, device
        return attach_adapter(model, recipe.adapter, recipe.seed), device

    @property
    def _pad_id(self) -> int:
        tokenizer = self.renderer.tokenizer
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.renderer.end_id)

    @cached_property
    def identity(self) -> Any:
        from afina.model.base import identify_base

        if self.base_folder is None:
            raise AfinaError("a model from scratch has no base", "this is a defect")
        return identify_base(self.base_folder, str(self.recipe.base), self.renderer.tokenizer)

    # ---- evaluate

    def open_trained(self) -> tuple[Any, Any]:
        """Open what was trained: (model, a way to switch to the model before training).

        Raises:
            BaseError: the adapter belongs to another base.
        """
        from afina.model.base import check_adapter_fits
        from afina.model.load_torch import load_base, open_adapter, pick_device

        device = pick_device(self.recipe.device)
        if self.outcome == "adapter":
            assert self.base_folder is not None
            check_adapter_fits(self.folder / "adapter", self.identity)
            base = load_base(self.base_folder, self.recipe, device, four_bit=self.recipe.adapter.kind == "qlora")
            model = open_adapter(base, self.folder / "adapter")
            return model, _without_adapter(model)
        model = load_base(self.folder / "model", self.recipe, device)
        return model, self._untrained

    @contextlib.contextmanager
    def _untrained(self) -> Iterator[Any]:
        yield self._fresh_model()[0].eval()

    def evaluate(self) -> dict[str, Any]:
        """Measure before and after, judge; writes ``predictions.jsonl``, ``samples.jsonl``, ``scores.json``."""
        from afina.evaluate.code_answers import check_compilers
        from afina.evaluate.derive import derive_probes
        from afina.evaluate.evaluate import evaluate
        from afina.evaluate.probes import probe_files, read_probes
        from afina.evaluate.tasks import PREDICTIONS_FILE, read_tasks, task_files
        from afina.text.example import read_examples
        from afina.walk.beside import measure_beside
        from afina.walk.kept import describe_kept, kept_answers
        from afina.walk.safety import ROWS_FILE, measure_safety, safety_inputs

        def look() -> dict[str, Any]:
            check_compilers(self.recipe)
            held_out = [row for _, validation in self.rows.values() for row in validation.rows]
            probes = read_probes(self.recipe)
            can_ask = bool(self.renderer.tokenizer.chat_template)
            derived = derive_probes(self.recipe, self.folder / "dataset", can_ask=can_ask)
            tasks = read_tasks(self.recipe, read_examples(self.folder / "dataset/train.jsonl"))
            model, before = self.open_trained()
            kept = kept_answers(self)
            models = before, lambda: contextlib.nullcontext(model)
            more = measure_beside(self, held_out, tasks, models, kept)
            safety = measure_safety(self, models, kept)
            with self.stage_progress("evaluate") as progress:
                verdict = evaluate(
                    *models,
                    self.renderer,
                    self.recipe,
                    held_out,
                    list(read_examples(self.folder / "dataset/validation.jsonl")),
                    [*probes, *derived.probes],
                    self.folder,
                    progress,
                    kept,
                    self.tell,
                    notes=derived.notes,
                    more=more,
                    safety=safety,
                )
            self.tell(describe_kept(kept))
            return verdict.as_json()

        inputs = {
            "trained": self.run.stages["train"]["outputs"],
            "dataset": self.dataset_hash,
            "base": self.base_files,
            "evaluate": self.recipe.evaluate.model_dump(mode="json"),
            "from_dataset": [*self.recipe.roles_from_dataset, self.recipe.dataset.language],
            "probes": {str(file): hash_file(file) for file in probe_files(self.recipe) if file.is_file()},
            "tasks": {str(file): hash_file(file) for file in task_files(self.recipe)},
            "safety": safety_inputs(self.recipe),
        }
        outputs = ["predictions.jsonl", "samples.jsonl", "scores.json", PREDICTIONS_FILE, ROWS_FILE]
        return self.run.stage("evaluate", inputs, outputs, look)

    # ---- manifest and report

    def manifest(self) -> None:
        """Write ``manifest.json``: every input by hash, versions, device, times, cost."""
        from afina.walk.manifest import write_manifest

        write_manifest(self)

    def report(self, verdict: dict[str, Any]) -> Path:
        """Write the page that tells the whole run and then, last of all files, ``finished.json``."""
        from afina.report.page import write_report

        code = 0 if verdict["passed"] else ResultError.exit_code
        finished = {"exit_code": code, "verdict": verdict["text"], "ended": time.time()}
        page = write_report(self.folder, finished)
        write_json(self.folder / "finished.json", finished)
        return page


def _without_adapter(model: Any) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    @contextlib.contextmanager
    def opened() -> Iterator[Any]:
        with model.disable_adapter():
            yield model

    return opened
