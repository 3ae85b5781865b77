"""The parts of a recipe: what each key means, its default, and what it may be."""

from __future__ import annotations

import io
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from ruamel.yaml import YAML

from afina.recipe.endpoints import Judge, Teacher
from afina.recipe.methods import METHOD_SETTINGS, METHODS, Kind, Method, MethodName, in_words, methods_that
from afina.recipe.part import Count, Fraction, Positive, RecipePart
from afina.recipe.probe import Limits, Probe, Role
from afina.recipe.safety import Safety
from afina.recipe.task import Task

HUB = "hf://"
WEB = ("https://", "http://")
"""How a source's path begins where it names a dataset of the hub, or a website."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Source(RecipePart):
    """Where documents come from: files, a dataset of the hub, or a website."""

    path: str
    """File, folder or glob, relative to `root`; `hf://owner/name?split=train`; or `https://...` (page, sitemap)."""
    kind: Literal["auto", "text", "markdown", "html", "pdf", "docx", "code", "pairs", "rows"] = "auto"
    """What the files are; `auto` goes by the file name's ending."""
    exclude: list[str] = []
    """Globs of files to leave out (counted and listed in the dataset's ledger)."""
    solutions: str | None = None
    """For `pairs`: folder or glob of the solutions, matched to the problems in `path`."""
    stem: str = r"^(\d+-\d+)"
    """For `pairs`: a regular expression; its first group names the pair in both file names."""
    columns: dict[
        Literal["prompt", "completion", "instruction", "input", "output", "messages", "text", "chosen", "rejected"]
        | Literal["label"],
        str,
    ] = {}
    """For `rows`: which column plays which part, where the names are not the usual ones. Where some are named, a
    `label` is read only if it is among them."""
    encoding: str = "utf-8"
    """How the bytes are to be read. Anything that does not decode is an error, never a guess."""
    on_scanned_page: Literal["error", "drop"] = "error"
    """For PDF: a page that shows something but holds no text needs OCR: stop, or leave it out (counted)."""
    revision: str | None = None
    """For `hf://`: the commit hash of the dataset, all 40 letters. A branch or tag may move, and the data with it."""
    follow: bool = False
    """For `https://`: read the pages that a page links to as well, those below its own address."""
    max_pages: Count = 100
    """For `https://`: how many pages at most; the rest is counted."""
    delay_seconds: Annotated[float, Field(ge=0.0)] = 1.0
    """For `https://`: pause between two requests; `robots.txt` may ask for a longer one."""
    refresh_days: Annotated[float, Field(ge=0.0)] | None = None
    """For `https://`: ask whether a page of the cache has changed when it is older; never where not given."""
    repeat: Count = 1
    """How many times each example is seen in one epoch."""
    replay: bool = False
    """General data mixed in against forgetting; reported apart."""
    stage: Literal["auto", "first", "second"] = "auto"
    """With `train.first`: which stage learns this source. `auto`: what suits the second (`sft`: conversations; `dpo`,
    `orpo`: preferences) goes to the second, the rest to the first."""
    validation: Fraction | None = None
    """Share held out from this source; the dataset's own where not given."""

    @model_validator(mode="after")
    def _remote_sources_are_whole(self) -> Source:
        hub, web = self.path.startswith(HUB), self.path.startswith(WEB)
        if hub and not _COMMIT.fullmatch(self.revision or ""):
            why = "a branch or a tag may hold other rows tomorrow, and the run could not be repeated"
            raise ValueError(f"{self.path} needs `revision`, the full commit hash (40 letters 0-9 a-f): {why}")
        if self.revision is not None and not hub:
            raise ValueError(f"`revision` belongs to a dataset of the hub (hf://owner/name), not to {self.path}")
        if (hub and self.kind not in ("auto", "rows")) or (web and self.kind not in ("auto", "html")):
            raise ValueError(f"{self.path} cannot be of kind {self.kind}: remove `kind`")
        return self


class Questions(RecipePart):
    """Questions and answers made from the structure of documents, by templates, without any model."""

    make: list[Literal["facts", "sections", "changes", "programs"]] = []
    """`facts`: labelled facts of a document ("**Nascimento:** Faro"); `sections`: what a section says; `changes`: what
    a release note changed; `programs`: code as the answer to "write a program that...". None where empty."""
    phrasings: Annotated[int, Field(ge=1, le=8)] = 5
    """How many phrasings of each fact."""
    max_answer_words: Count = 120
    """Longer answers make no question (counted); they stay in the text. Programs are never too long."""


class Clean(RecipePart):
    """Cleaning of raw text; every removal has a counted reason and can be read back."""

    preset: Literal["none", "monograph"] = "none"
    """`monograph`: the rules of a Brazilian-Portuguese corpus: line length, share of letters, addresses, upper-case
    headers, repeated lines, encoding repair."""
    min_line_chars: Count = 80
    """Shorter lines of raw text go (in hard-wrapped texts: shorter paragraphs)."""
    min_letters: Fraction = 0.6
    """Lines with a smaller share of letters among their visible characters go."""
    min_document_chars: Count = 200
    """Raw texts of which less is left go whole."""


class NearDuplicates(RecipePart):
    """Texts that are almost the same, found by MinHash."""

    on: Literal["keep", "drop", "error"] = "keep"
    threshold: Fraction = 0.8
    """Jaccard similarity of 5-word shingles from which two texts count as near duplicates."""


class Datatrove(RecipePart):
    """Where `dataset.engine: datatrove` runs."""

    executor: Literal["local", "slurm", "ray"] = "local"
    """`local`: processes here. `slurm`: an array of jobs (the run's folder and the sources must lie where the cluster's
    machines see them). `ray`: the cluster of RAY_ADDRESS, or one started here."""
    workers: Count | None = None
    """Tasks at a time; null: one per processor (`local`), as many as the cluster allows (`slurm`, `ray`)."""
    memory_gb: Count = 2
    """Memory per task."""
    partition: str | None = None
    """Slurm's partition."""
    time: str = "04:00:00"
    """Slurm's time limit per task."""

    @model_validator(mode="after")
    def _slurm_needs_a_partition(self) -> Datatrove:
        if self.executor == "slurm" and not self.partition:
            raise ValueError("executor slurm needs `partition`, the one that the jobs go to (`sinfo` lists them)")
        return self


class Dataset(RecipePart):
    """How documents become examples, and what to do with those that are not fit."""

    language: Literal["pt-BR", "pt-PT", "en"] = "en"
    """Language of the texts."""
    section_chars: int = Field(default=0, ge=0)
    """Longest section of a document in characters; 0 takes twice `train.max_length`."""
    validation: Fraction = 0.05
    """Share of the examples held out, chosen by a hash of their content."""
    on_empty_prompt: Literal["error", "drop", "text"] = "error"
    """A row without a prompt: stop, drop it (counted), or train its answer as plain text."""
    on_empty_answer: Literal["error", "drop"] = "error"
    """A row without an answer: stop, or drop it (counted)."""
    on_duplicate: Literal["drop", "keep", "error"] = "drop"
    """The same example twice: drop the second (counted), keep both, or stop."""
    on_too_long: Literal["error", "drop"] = "error"
    """A conversation longer than `train.max_length` tokens: stop, or drop it (counted). It is never cut."""
    split_by: Literal["content", "file"] = "content"
    """What is held out together: equal questions (`content`), or all that comes from one file and from the files about
    the same subject (`file`)."""
    questions: Questions = Questions()
    hold_out_phrasings: Annotated[int, Field(ge=0, le=7)] = 0
    """How many further phrasings of each fact are never trained but written to `probes-unseen.jsonl`, beside
    `probes-seen.jsonl` with a phrasing that is."""
    teacher: Teacher | None = None
    clean: Clean = Clean()
    near_duplicates: NearDuplicates = NearDuplicates()
    engine: Literal["own", "datatrove"] = "own"
    """What reads, cleans and hashes: afina's own processes, or a datatrove pipeline of the same functions (needs
    `pip install afina[datatrove]`). The dataset is the same."""
    datatrove: Datatrove = Datatrove()
    personal_data: Literal["keep", "mask", "drop"] = "keep"
    """CPF, CNPJ, NIF, telephone, e-mail, card numbers, keys and tokens: keep (reported), mask, or drop the example."""
    check_code: dict[str, str] = {}
    """Language -> compiler that its code blocks must pass, e.g. `zig: ziglang==0.14.0`, `python: "3.11"`, or a command
    line with `{file}`."""
    on_wrong_code: Literal["keep", "drop", "error"] = "keep"
    """Code that its compiler refuses (code that only lacks a dependency is kept and reported apart)."""
    replay_share: Fraction | None = None
    """Share of the training tokens that replay sources should make up; reached by repeating or sampling them."""
    accept: list[str] = []
    """Names of fatal audit findings that are accepted."""

    @model_validator(mode="after")
    def _enough_phrasings(self) -> Dataset:
        wanted = self.questions.phrasings + self.hold_out_phrasings
        if wanted > 8:
            raise ValueError(
                f"questions.phrasings and hold_out_phrasings are {wanted} together; there are 8 of each kind"
            )
        if self.replay_share == 1.0:
            raise ValueError("replay_share must be below 1: something has to be learned")
        return self


class Chat(RecipePart):
    """How messages become text; the same for training, evaluation and serving."""

    template: str | None = None
    """`chatml`, or a Jinja file; the base's own where not given."""
    template_args: dict[str, bool | str | int] = {}
    """Arguments for the template, e.g. `enable_thinking: false`."""
    system: str | None = None
    """System message put before every conversation that has none."""


class Adapter(RecipePart):
    """What is trained: a low-rank adapter, or every weight."""

    kind: Literal["lora", "qlora", "none"] = "lora"
    """`qlora` keeps the base in 4 bits (NF4, double quantization); `none` trains every weight."""
    variant: Literal["lora", "rslora", "dora", "pissa", "loftq"] = "lora"
    """`rslora` counts alpha/sqrt(rank) times, `dora` trains each column's length too, `pissa` starts from the largest
    singular values (not with qlora), `loftq` from what 4 bits lost (only with qlora)."""
    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Fraction = 0.0
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Which linear layers get an adapter."""
    lora_plus_ratio: Annotated[float, Field(ge=1.0)] = 1.0
    """LoRA+: how many times `train.learning_rate` the B matrices get."""
    modules_to_save: list[str] = []
    """Layers trained whole and stored with the adapter, e.g. `[embed_tokens, lm_head]`."""

    @model_validator(mode="after")
    def _variant_and_kind_agree(self) -> Adapter:
        if self.variant == "loftq" and self.kind != "qlora":
            raise ValueError("variant loftq makes up for what 4 bits lose: it needs kind qlora")
        if self.variant == "pissa" and self.kind == "qlora":
            raise ValueError(
                "variant pissa changes the base's matrices, which 4 bits cannot hold: use kind lora, or loftq"
            )
        if self.kind == "none" and (self.variant != "lora" or self.lora_plus_ratio != 1.0 or self.modules_to_save):
            raise ValueError("kind none has no adapter: remove variant, lora_plus_ratio and modules_to_save")
        return self


class Scratch(RecipePart):
    """Shape of a model trained from random weights (Llama architecture) and of its tokenizer."""

    hidden: Count = 192
    layers: Count = 4
    heads: Count = 4
    kv_heads: int = Field(default=0, ge=0)
    """0: as many as `heads`."""
    intermediate: int = Field(default=0, ge=0)
    """0: three times `hidden`."""
    vocab: Count = 1500
    """Size of the byte-level BPE trained on the training examples."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Scratch:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.vocab < 300:
            raise ValueError("vocab must be at least 300: 256 bytes, the special tokens and some merges")
        return self


Rate = Annotated[float, Field(ge=0.0)]
Schedule = Literal["linear", "cosine", "constant"]


class First(RecipePart):
    """A stage of training before this one, e.g. documents (`cpt`) before answers (`sft`), or answers (`sft`) before
    preferences (`dpo`); `train` goes on from the adapter or model that it leaves. What is not given is as in `train`.
    """

    method: Literal["cpt", "sft"] = "cpt"
    epochs: Positive | None = None
    learning_rate: Rate | None = None
    schedule: Schedule | None = None
    warmup: Fraction | None = None
    batch_tokens: Count | None = None
    accumulate: Count | None = None


class Train(RecipePart):
    """The loop."""

    method: MethodName = "sft"
    """`sft` learns answers only (plain texts whole), `cpt` every token, `scratch` too, from random weights; `dpo` and
    `orpo` learn from rows with a better and a worse answer (`prompt`, `chosen`, `rejected`), `kto` from rows that say
    whether their answer is a good one (`prompt`, `completion`, `label`)."""
    first: First | None = None
    """A stage before this one."""
    beta: Positive = 0.1
    """For `dpo` and `kto`: how closely the model is held to the one it started from. For `orpo`: weight of the odds
    ratio beside the likelihood of the better answer (lambda)."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """For `dpo`: share of the pairs that may have better and worse mixed up."""
    desirable_weight: Positive = 1.0
    """For `kto`: weight of good answers. Times their number it should be 1 to 4/3 of the same of bad ones."""
    undesirable_weight: Positive = 1.0
    """For `kto`: weight of bad answers."""
    epochs: Positive = 3.0
    learning_rate: Rate = 2e-4
    schedule: Schedule = "linear"
    warmup: Fraction = 0.03
    """Share of the steps in which the rate climbs."""
    final_rate: Fraction = 0.05
    """The rate at the last step, as a share of `learning_rate`."""
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = "auto"
    """The 8-bit ones (bitsandbytes) keep AdamW's moments in a quarter of the memory; `paged` moves them out of a full
    GPU. `auto`: `adamw`, and `adamw_8bit` where every weight is trained on a GPU and memory may not do."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What frozen weights are held and products computed in; adapters and moments stay in 32 bits. `auto`: bf16 where
    a GPU has it, fp32 on CPUs and Apple chips."""
    kernels: Literal["auto", "torch", "liger"] = "auto"
    """`liger`: its fused kernels for norms, rotations, activations and the loss, on NVIDIA GPUs (`pip install
    'afina[liger]'`). `auto` takes them where they are."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of every layer; `auto`: no, since it was measured slower on a CPU and nowhere else."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    neftune_alpha: Positive | None = None
    """NEFTune: uniform noise of alpha/sqrt(length * hidden) on the embeddings while training; 5 is usual."""
    max_length: int = Field(default=1024, ge=16)
    """Longest example in tokens. Long plain texts become consecutive blocks; conversations follow `on_too_long`."""
    batch_tokens: Count = 1024
    """Padded tokens in one micro-batch: the bound on memory."""
    accumulate: Count = 1
    """Micro-batches per optimizer step; tokens weigh the same whatever this is."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """Under torchrun: each process holds the whole model (`ddp`), or a part of every weight (`fsdp`); `auto` takes
    `ddp` where a GPU can hold the weights. A single process does without."""
    share_prefix: bool = True
    """Compute tokens that all rows of a micro-batch begin with (a system prompt, a document) once, where that is exact
    and saves enough."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    tries: int = Field(default=3, ge=0)
    """How often a NaN or infinite loss or gradient is met by going back and halving the rate, before giving up."""
    patience: Count | None = None
    """Stop after this many measured held-out losses without a better one, and keep the best weights."""
    checkpoint_seconds: Positive = 60.0
    """A checkpoint at least this often."""
    keep_checkpoints: Count = 2
    """How many of the newest checkpoints stay on disk, beside the one with the best held-out loss."""
    validate_per_epoch: int = Field(default=1, ge=0)
    """How many times per epoch the held-out loss is measured."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Where each step's figures go besides `metrics.jsonl`; the libraries' own settings (`WANDB_MODE`,
    `MLFLOW_TRACKING_URI`, ...) hold."""

    @field_validator("trackers")
    @classmethod
    def _each_tracker_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("trackers names one of them twice")
        return names

    @model_validator(mode="after")
    def _stages_and_method_agree(self) -> Train:
        for name in sorted(METHOD_SETTINGS - self.facts.settings):
            if getattr(self, name) != Train.model_fields[name].default:
                theirs = [method for method, facts in METHODS.items() if name in facts.settings]
                raise ValueError(f"{name} belongs to method {in_words(theirs)}: remove it")
        if self.first is None:
            return self
        if not self.facts.follows:
            raise ValueError(f"`first` comes before method {in_words(methods_that(follows=True))}, not {self.method}")
        if self.first.method == self.method:
            raise ValueError(f"`first` is of method {self.method} too: give one stage more epochs instead")
        return self

    @property
    def facts(self) -> Method:
        """What is known of its method."""
        return METHODS[self.method]

    @property
    def unused(self) -> frozenset[str]:
        """Settings of other methods."""
        return METHOD_SETTINGS - self.facts.settings

    def of_first(self) -> Train:
        """The settings of the first stage.

        >>> first = Train(epochs=3, learning_rate=1e-4, first=First(epochs=1)).of_first()
        >>> first.method, first.epochs, first.learning_rate
        ('cpt', 1.0, 0.0001)
        """
        if self.first is None:
            raise ValueError("there is one stage alone")
        given = {key: value for key, value in self.first if value is not None}
        defaults = {name: Train.model_fields[name].default for name in METHOD_SETTINGS}
        return self.model_copy(update={"first": None} | defaults | given)


class Evaluate(RecipePart):
    """What is measured before and after."""

    probes: list[Probe] = []
    """For each role that they do not name, questions are taken from the dataset where it has some."""
    questions: int = Field(default=100, ge=0)
    """How many questions each probe taken from the dataset asks at most; 0 takes none."""
    tasks: list[Task] = []
    judge: Judge | None = None
    samples: int = Field(default=8, ge=0)
    """Held-out questions answered by base and adapter side by side."""
    max_new_tokens: Count = 64
    limits: Limits = Limits()

    @field_validator("tasks", mode="after")
    @classmethod
    def _task_names_differ(cls, tasks: list[Task]) -> list[Task]:
        if len({task.name for task in tasks}) != len(tasks):
            raise ValueError("two tasks have the same name")
        return tasks


class Budget(RecipePart):
    """What the job may cost."""

    hours: Positive | None = None
    """Longest time that the plan may ask for; a training that reaches it stops with a checkpoint."""
    price_per_hour: Annotated[float, Field(ge=0.0)] = 0.0
    """Price of the device."""
    currency: str = "US$"
    money: Positive | None = None
    """Largest cost that the plan may ask for; a training that reaches it stops with a checkpoint."""
    anyway: bool = False
    """Start even where the plan says that it will not fit."""


class Recipe(RecipePart):
    """The whole description of a run.

    >>> Recipe(name="x", sources=[Source(path="a.md")], base="folder").train.method
    'sft'
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder below `runs/`."""
    seed: int = 0
    root: str = "."
    """Folder that `sources` and `probes` are relative to; itself relative to the recipe file."""
    base: str | None = None
    """Folder or hub id of the model to start from; none for `train.method: scratch`."""
    base_revision: str | None = None
    """Hub revision, a commit hash for a run that can be repeated."""
    trust_remote_code: bool = False
    """Whether code that comes with the base may run. Off unless it is written here."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    sources: list[Source] = Field(min_length=1)
    dataset: Dataset = Dataset()
    chat: Chat = Chat()
    adapter: Adapter = Adapter()
    scratch: Scratch = Scratch()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    safety: Safety = Safety()
    budget: Budget = Budget()

    @field_validator("sources", mode="after")
    @classmethod
    def _pairs_need_solutions(cls, sources: list[Source]) -> list[Source]:
        for position, source in enumerate(sources):
            if source.kind == "pairs" and not source.solutions:
                raise ValueError(
                    f"sources.{position} is of kind pairs and needs `solutions`, the folder of the answers"
                )
        return sources

    @model_validator(mode="after")
    def _method_and_base_agree(self) -> Recipe:
        if self.train.method == "scratch":
            if self.base is not None:
                raise ValueError("train.method scratch starts from random weights: remove `base`, or use cpt or sft")
        elif self.base is None:
            raise ValueError(f"train.method {self.train.method} needs `base`, a folder or a hub id to start from")
        placed = [position for position, source in enumerate(self.sources) if source.stage != "auto"]
        if placed and self.train.first is None:
            raise ValueError(f"sources.{placed[0]}.stage needs `train.first`: there is one stage alone")
        return self

    @model_validator(mode="after")
    def _canaries_can_be_learned(self) -> Recipe:
        if self.safety.canaries and self.train.facts.judged and self.train.first is None:
            raise ValueError(
                f"safety.canaries are rows to learn, and train.method {self.train.method} learns judged answers: "
                "remove `canaries`, or learn answers first (`train.first: {method: sft}`)"
            )
        return self

    @model_validator(mode="after")
    def _what_can_be_sharded(self) -> Recipe:
        if self.train.parallel == "fsdp" and (self.adapter.kind == "qlora" or self.train.optimizer.endswith("8bit")):
            raise ValueError(
                "train.parallel fsdp cannot share out bitsandbytes' weights or moments: use adapter.kind lora or none "
                "with optimizer adamw, or parallel ddp"
            )
        return self

    def stage_of(self, source: int, kind: Kind) -> Literal["first", "second"]:
        """Which stage of training learns an example of this kind from the source at this position."""
        if self.train.first is None:
            return "second"
        if (wanted := self.sources[source].stage) != "auto":
            return wanted
        return "second" if kind == (self.train.facts.judged or "messages") else "first"

    def method_of(self, source: int, kind: Kind) -> MethodName:
        """How an example of this kind from the source at this position is learned."""
        first = self.train.first
        return first.method if first and self.stage_of(source, kind) == "first" else self.train.method

    @property
    def stages(self) -> dict[str, object]:
        """What decides which stage learns an example, and how; empty where there is one stage alone."""
        if self.train.first is None:
            return {}
        return {"first": self.train.first.method, "stages": [source.stage for source in self.sources]}

    @property
    def roles_from_dataset(self) -> list[Role]:
        """Roles of the probes that evaluation takes from the dataset, because `evaluate.probes` names none."""
        if not self.evaluate.questions:
            return []
        # What judged answers teach is told by the held-out ones: the answers of an earlier stage are no measure of it.
        found: list[Role] = [] if self.train.facts.judged else ["recall"]
        if self.dataset.hold_out_phrasings:
            found.append("generalization")
        if self.dataset.split_by == "file":
            found.append("unknown")
        if self.train.method != "scratch":  # random weights know nothing that could be forgotten
            found += ["retention", "claims"]
        return [role for role in found if role not in {probe.role for probe in self.evaluate.probes}]

    @property
    def section_chars(self) -> int:
        """Longest section in characters."""
        return self.dataset.section_chars or 2 * self.train.max_length

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out."""
        out = io.StringIO()
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.dump(self.model_dump(mode="json"), out)
        return out.getvalue()
