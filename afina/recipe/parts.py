"""The parts of a recipe: what each key means, its default, and what it may be.

A field's docstring is the one place for its help: starters, `docs/recipe.md`, the JSON schema and `--help` show it.
Its first sentence has to do alone.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from afina.recipe.endpoints import Judge, Teacher
from afina.recipe.methods import METHOD_SETTINGS, METHODS, Kind, Method, MethodName, in_words, methods_that
from afina.recipe.part import Count, Fraction, Named, Positive, RecipePart
from afina.recipe.probe import SKILL_QUESTIONS, WINDOWS, Limits, Probe, Role, Windows
from afina.recipe.safety import Safety
from afina.recipe.task import Task
from afina.recipe.tokenizers import TokenizerKind
from afina.recipe.yaml_text import yaml_of

HUB = "hf://"
WEB = ("https://", "http://")
"""How a source's path begins where it names a dataset of the hub, or a website."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""The name of a variable of the environment, as every shell takes it."""
_PLACE = re.compile(r"[A-Za-z0-9._/][A-Za-z0-9._+/-]*")


FileKind = Literal["text", "markdown", "html", "pdf", "docx", "epub", "code", "rows"]
"""What a file is read as. :mod:`afina.text.formats` holds, for each, the endings and the reader."""


class Source(RecipePart):
    """Where documents come from: files, a dataset of the hub, or a website."""

    path: Named
    """File, folder or glob below `root`. Or `hf://owner/name?split=train`, or `https://...` (a page or sitemap)."""
    kind: Literal["auto", FileKind, "pairs"] = "auto"
    """What the files are. `auto` goes by the file name's ending."""
    exclude: list[Named] = []
    """Globs of files to leave out, e.g. `["drafts/*"]`. They are counted and listed in the dataset's ledger."""
    all_files: bool = False
    """Also read what is left out of a folder of code: vendored, generated and minified files, lock files, what
    `.gitignore` names. Files of secrets (`.env`, keys) are never read."""
    solutions: Named | None = None
    """For `pairs`: folder or glob of the solutions, matched to the problems in `path`."""
    stem: str = r"^(\d+-\d+)"
    """For `pairs`: a regular expression; its first group names the pair in both file names."""
    columns: dict[
        Literal["prompt", "completion", "instruction", "input", "output", "messages", "text", "chosen", "rejected"]
        | Literal["label", "system", "history", "tools"],
        Named,
    ] = {}
    """For `rows`: your column names where they are not the usual ones, e.g. `{prompt: pergunta}`. Where some
    are named, a `label` is read only if it is among them."""
    leave_out: list[Named] = []
    """For `rows`: columns and keys of turns that are left out on purpose (counted), also those that decide what is
    learned and would stop the build, e.g. `[images, weight]`."""
    encoding: Named = "utf-8"
    """Encoding of the files. Bytes that do not decode are an error, never a guess."""
    on_scanned_page: Literal["error", "drop"] = "error"
    """A PDF page with an image and no text needs OCR: stop (`error`), or leave it out and count it (`drop`)."""
    revision: Named | None = None
    """For `hf://`: the dataset's full commit hash (40 characters). A branch or tag may move, and the data with it."""
    follow: bool = False
    """For `https://`: also read the pages it links to, as long as they lie below its own address."""
    max_pages: Count = 100
    """For `https://`: read at most this many pages. The rest is counted."""
    delay_seconds: Annotated[float, Field(ge=0.0)] = 1.0
    """For `https://`: pause between two requests. A longer one in `robots.txt` is respected."""
    refresh_days: Annotated[float, Field(ge=0.0)] | None = None
    """For `https://`: check cached pages older than this for changes; null: never."""
    repeat: Count = 1
    """How many times each example is seen in one epoch."""
    replay: bool = False
    """General data, mixed in against forgetting and reported separately."""
    stage: Literal["auto", "first", "second"] = "auto"
    """With `train.first`: which stage trains on this source. `auto`: conversations go to a second stage of `sft`, pairs
    to one of `dpo` or `orpo`, everything else to the first."""
    private: bool = False
    """These files are not to leave this machine: `afina launch` sends them nowhere without `--send-private`."""
    validation: Fraction | None = None
    """Share of this source that is held out; null: `dataset.validation`."""
    splits: Literal["auto", "ignore"] = "auto"
    """Tables and texts called `train`, `valid` and `test` side by side: take them for that (`auto`), so that `valid` is
    what is held out and `test` is left out of training, or `ignore` their names and split by content."""

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
    """Questions made from the structure of documents by templates, without any model."""

    make: list[Literal["facts", "sections", "changes", "programs"]] = []
    """Which questions to make. `facts`: labelled facts of a document ("**Nascimento:** Faro"); `sections`: what a
    section says; `changes`: what a release note changed; `programs`: code that answers "write a program that..."."""
    phrasings: Annotated[int, Field(ge=1, le=8)] = 5
    """Phrasings of each fact in the training data."""
    max_answer_words: Count = 120
    """Longer answers make no question (counted) and stay in the text. Programs have no limit."""


class Clean(RecipePart):
    """Cleaning of raw text; every removal has a counted reason and can be read back."""

    preset: Literal["none", "monograph"] = "none"
    """Rules to clean raw text by. `monograph`: those of a Brazilian-Portuguese corpus: line length, share of letters,
    URLs, upper-case headers, repeated lines, encoding repair."""
    min_line_chars: Count = 80
    """Drop shorter lines (in hard-wrapped texts: shorter paragraphs)."""
    min_letters: Fraction = 0.6
    """Drop lines with a smaller share of letters among their visible characters."""
    min_document_chars: Count = 200
    """Drop texts of which less is left after cleaning."""


class NearDuplicates(RecipePart):
    """Near duplicates, found by MinHash."""

    on: Literal["keep", "drop", "error"] = "keep"
    """What to do with them: `keep`, `drop` all but the longest of each cluster (counted), or stop with an `error`."""
    threshold: Fraction = 0.8
    """Jaccard similarity of 5-word shingles at which two texts count as near duplicates."""


class Datatrove(RecipePart):
    """Where `dataset.engine: datatrove` runs."""

    executor: Literal["local", "slurm", "ray"] = "local"
    """Where the tasks run. `local`: processes on this machine. `slurm`: a job array (run folder and sources must be on
    a disk that the cluster's machines share). `ray`: the cluster at RAY_ADDRESS, or one started here."""
    workers: Count | None = None
    """Tasks at a time; null: one per processor (`local`), or as many as the cluster allows (`slurm`, `ray`)."""
    memory_gb: Count = 2
    """Memory of each task in GiB."""
    partition: Named | None = None
    """Slurm partition."""
    time: Named = "04:00:00"
    """Slurm time limit of each task."""

    @model_validator(mode="after")
    def _slurm_needs_a_partition(self) -> Datatrove:
        if self.executor == "slurm" and not self.partition:
            raise ValueError("executor slurm needs `partition`, the one that the jobs go to (`sinfo` lists them)")
        return self


class Dataset(RecipePart):
    """How documents become examples, and what to do with bad ones."""

    language: Literal["pt-BR", "pt-PT", "en"] = "en"
    """Language of the texts, and of the report."""
    section_chars: int = Field(default=0, ge=0)
    """Longest section of a document in characters; 0: twice `train.max_length`."""
    validation: Fraction = 0.05
    """Share of the examples held out, chosen by a hash of their content."""
    on_empty_prompt: Literal["error", "drop", "text"] = "error"
    """A row without a prompt: stop (`error`), `drop` it (counted), or train its answer as plain `text`."""
    on_empty_answer: Literal["error", "drop"] = "error"
    """A row without an answer: stop (`error`), or `drop` it (counted)."""
    on_unreadable: Literal["error", "drop"] = "error"
    """A row that cannot be used (no JSON, no answer at its end, an unknown role, a field that training does not know):
    stop with all of them (`error`), or `drop` them (counted, each with its reason). A file that breaks off stops."""
    on_duplicate: Literal["drop", "keep", "error"] = "drop"
    """The same example twice: `drop` the second (counted), `keep` both, or stop (`error`)."""
    on_too_long: Literal["error", "drop"] = "error"
    """A conversation longer than `train.max_length`: stop (`error`), or `drop` it (counted). It is never truncated."""
    on_not_rendered: Literal["error", "drop"] = "error"
    """A conversation that the base's chat template refuses or cannot give back: stop (`error`), or `drop` it
    (counted)."""
    split_by: Literal["content", "file"] = "content"
    """What is held out together: equal questions (`content`), or whole files with all files on the same subject
    (`file`)."""
    questions: Questions = Questions()
    hold_out_phrasings: Annotated[int, Field(ge=0, le=7)] = 0
    """More phrasings of each fact, kept out of training to test generalization. They are written to
    `probes-unseen.jsonl`, beside `probes-seen.jsonl` with a phrasing that is trained; those of sections and changes to
    `prose.jsonl`, where key terms mark the answers."""
    teacher: Teacher | None = None
    clean: Clean = Clean()
    near_duplicates: NearDuplicates = NearDuplicates()
    engine: Literal["own", "datatrove"] = "own"
    """What reads, cleans and hashes: afina's `own` processes, or a `datatrove` pipeline of the same functions. The
    dataset is the same; datatrove needs `pip install 'afina[datatrove]'`."""
    datatrove: Datatrove = Datatrove()
    personal_data: Literal["keep", "mask", "drop"] = "keep"
    """CPF, CNPJ, NIF, SSN, IBAN, IP, phone, e-mail, cards, keys: `keep` (reported), `mask`, or `drop` the example."""
    check_code: dict[str, Named] = {}
    """The compiler that code blocks of a language must pass, e.g. `{zig: ziglang==0.14.0, python: "3.11"}`. A command
    line with `{file}` is possible too."""
    on_wrong_code: Literal["keep", "drop", "error"] = "keep"
    """Code that does not compile: `keep` (reported), `drop` (counted), or stop (`error`). Code that only misses a
    dependency is kept and reported separately."""
    replay_share: Fraction | None = None
    """Share of the training tokens that come from replay sources, e.g. 0.2; reached by repeating or sampling them."""
    answers: Named | None = None
    """A file of answers that are learned in the place of the rows' own. Each line has `prompt`, `completion` and
    `reference`: where a row asks `prompt` and answers `reference`, `completion` is learned, and the question stays
    marked by `reference`. `afina improve` writes one, in the base's own words."""
    accept: list[Named] = []
    """Names of fatal audit findings that you accept, e.g. `[exact_duplicate]`."""

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
    """The chat template; the same for training, evaluation and serving."""

    template: Named | None = None
    """`chatml`, or a Jinja file; null: the base's own. On a base without `<|im_end|>`, `chatml` ends each turn with the
    base's own end token."""
    template_args: dict[str, bool | str | int] = {}
    """Arguments of the template, e.g. `{enable_thinking: false}`."""
    system: str | None = None
    """System message for every conversation that has none."""
    system_turn: Literal["error", "fold"] = "error"
    """A system text on a base whose template has no place for one: refused, or put before the first question, in
    training and in serving."""
    turns: Literal["all", "last", "each"] | None = None
    """What is learned of a conversation of several answers: `all` of them in one row, the `last`, or `each` in a row of
    its own, its history as it is when that answer is asked for. Null: `all` where the template writes every answer as
    it does when asked for it, else `each` (Qwen3 takes thoughts out of earlier turns)."""
    marks_in_text: Literal["words", "error"] = "words"
    """Marks of the base, such as `<|im_end|>`, inside texts, messages and prompts: encoded as words, so that no text
    ends a turn or begins one; or refused."""
    end_texts: bool = True
    """Put the end token behind each plain text, and learn it. `false` is what loaders of raw text train: nothing says
    where a text ends, and a model forgets to stop. The audit refuses it (`end_token_missing`)."""


class Adapter(RecipePart):
    """What is trained: a low-rank adapter, or every weight."""

    kind: Literal["lora", "qlora", "none"] = "lora"
    """`lora`; `qlora`: on a base in 4 bits (NF4, double quantization; with `backend: mlx` MLX's own, see `bits`); or
    `none`: train every weight."""
    variant: Literal["lora", "rslora", "dora", "pissa", "loftq"] = "lora"
    """Variant of LoRA. `rslora` scales by alpha/sqrt(rank), `dora` also trains the magnitude of each column, `pissa`
    starts from the largest singular values (not with qlora), `loftq` from the quantization error (only with qlora)."""
    rank: Count = 16
    """Rank of the adapter: a higher one learns more and costs more memory."""
    alpha: Positive = 32.0
    """The adapter is scaled by alpha/rank; twice the rank is a good start."""
    dropout: Fraction = 0.0
    """Dropout on the adapter's inputs while training."""
    targets: Literal["all-linear"] | list[Named] = "all-linear"
    """Which layers get an adapter: `all-linear`, every matrix that learns from text (routed experts too where PEFT can;
    no routers, no output), or a list of names, e.g. `[q_proj, v_proj, experts]`."""
    num_layers: Count | None = None
    """So many of the last layers get an adapter; null: all of them."""
    bits: Literal[4, 8] | None = None
    """For `qlora`: bits of each of the base's numbers; 8 with `backend: mlx` alone. null: 4, or as many as a base has
    that MLX has quantized already."""
    group_size: Literal[32, 64, 128] | None = None
    """For `qlora` with `backend: mlx`: how many numbers share a scale and an offset; null: 64, or as a quantized base
    has it."""
    lora_plus_ratio: Annotated[float, Field(ge=1.0)] = 1.0
    """LoRA+: the B matrices train at this multiple of `train.learning_rate`, e.g. 16."""
    modules_to_save: list[Named] = []
    """Layers trained in full and saved with the adapter, e.g. `[embed_tokens, lm_head]`: all whose names end so."""

    @property
    def adapts_experts(self) -> bool:
        """Whether `all-linear` reaches the routed experts of a mixture, which are one parameter of many matrices: PEFT
        cannot adapt them with dropout, in 4 bits, or by the other variants."""
        return self.kind == "lora" and self.variant in ("lora", "rslora") and not self.dropout

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
        if self.kind == "none" and self.num_layers is not None:
            raise ValueError("kind none has no adapter: remove num_layers")
        for name in ("bits", "group_size"):
            if getattr(self, name) is not None and self.kind != "qlora":
                raise ValueError(f"{name} belongs to kind qlora: remove it")
        return self


class Scratch(RecipePart):
    """Shape of the model and size of the tokenizer that `method: scratch` trains."""

    kind: Literal["llama", "lstm", "gru"] = "llama"
    """A Llama, or a recurrent model. The latter learns one stream of all documents: `train.max_length` is its steps of
    truncated back-propagation, `train.batch_tokens // train.max_length` how many places of the stream are read side by
    side (64 keep a CPU busy), and the state is carried from step to step. Held-out rows each begin with an empty
    state."""
    hidden: Count = 192
    """Hidden size; of a Llama a multiple of `heads`."""
    layers: Count = 4
    """Number of layers."""
    heads: Count = 4
    """Attention heads of a layer."""
    kv_heads: int = Field(default=0, ge=0)
    """Key-value heads of a layer; 0: as many as `heads`."""
    intermediate: int = Field(default=0, ge=0)
    """Size of the feed-forward layer; 0: three times `hidden`."""
    embedding: int = Field(default=0, ge=0)
    """Of a recurrent model: numbers of a token's embedding; 0: as many as `hidden`."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of a recurrent model: dropout between its layers."""
    tokenizer: TokenizerKind = "byte-bpe"
    """What is trained on your examples: a byte-level BPE, SentencePiece's BPE or Unigram, or single characters."""
    vocab: Count = 1500
    """Entries of its vocabulary, at most: little text gives fewer."""
    lowercase: bool = False
    """Whether the tokenizer reads every text in lower case. Capitals are then neither learned nor written, here and
    wherever its folder is opened. It predicts less, so that bits per byte compare only with models that fold alike."""
    normalize_numbers: bool = False
    """Whether it reads every number of two digits or more as `0`, for good as well. Both true is how the monograph of
    `dataset.clean.preset` read its texts in its versions 1 to 4; both false keeps case and numbers."""

    @property
    def recurrent(self) -> bool:
        """Whether it keeps a state instead of looking at earlier tokens."""
        return self.kind != "llama"

    @property
    def folding(self) -> dict[str, bool]:
        """The keys that say what the tokenizer folds, where they are true."""
        return {name: True for name in ("lowercase", "normalize_numbers") if getattr(self, name)}

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values for what depends on them. Runs from before a tokenizer could fold go on: the keys of that stand
        here only where they change something."""
        return self.model_dump(mode="json", exclude={"lowercase", "normalize_numbers"}) | self.folding

    @model_validator(mode="after")
    def _sizes_belong_to_the_kind(self) -> Scratch:
        others = ("heads", "kv_heads", "intermediate") if self.recurrent else ("embedding", "dropout")
        for name in others:
            if getattr(self, name) != Scratch.model_fields[name].default:
                theirs = "kind llama" if self.recurrent else "kind lstm or gru"
                raise ValueError(f"{name} belongs to {theirs}: remove it")
        if self.dropout and self.layers == 1:
            raise ValueError("dropout stands between layers, and there is one: remove it, or give more layers")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Scratch:
        if not self.recurrent and self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.vocab < 300:
            raise ValueError("vocab must be at least 300: 256 bytes, the special tokens and some pieces")
        return self


Rate = Annotated[float, Field(ge=0.0)]
Schedule = Literal["linear", "cosine", "constant", "wsd"]


class First(RecipePart):
    """A training stage before this one, e.g. `{method: cpt, epochs: 1.0}`: documents first, then answers.

    Or answers (`sft`) before preferences (`dpo`). `train` continues from its adapter or model.
    """

    method: Literal["cpt", "sft"] = "cpt"
    """As in `train`: `cpt` learns every token, `sft` the answers."""
    epochs: Positive | None = None
    """As in `train`; null: the same."""
    learning_rate: Rate | None = None
    """As in `train`; null: the same."""
    schedule: Schedule | None = None
    """As in `train`; null: the same."""
    warmup: Fraction | None = None
    """As in `train`; null: the same."""
    decay: Fraction | None = None
    """As in `train`; null: the same."""
    batch_tokens: Count | None = None
    """As in `train`; null: the same."""
    accumulate: Count | None = None
    """As in `train`; null: the same."""


class Train(RecipePart):
    """How the model is trained."""

    method: MethodName = "sft"
    """What is learned. `sft`: the answers (of plain texts, every token); `cpt`: every token; `scratch`: every token,
    from random weights; `dpo`, `orpo`: which answer is better, from rows of `prompt`, `chosen` and `rejected`; `kto`:
    whether an answer is a good one, from rows of `prompt`, `completion` and `label`."""
    first: First | None = None
    beta: Positive = 0.1
    """For `dpo` and `kto`: how strongly the model is held to the one it started from. For `orpo`: lambda, the weight of
    the odds ratio beside the likelihood of the better answer."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """For `dpo`: share of the pairs that may be labelled the wrong way round."""
    desirable_weight: Positive = 1.0
    """For `kto`: weight of good answers. Weight times number should be 1 to 4/3 of the same of bad ones."""
    undesirable_weight: Positive = 1.0
    """For `kto`: weight of bad answers."""
    epochs: Positive = 3.0
    """Passes over the training data."""
    learning_rate: Rate = 2e-4
    """Peak learning rate: 2e-4 for adapters, 2e-5 for preferences, 1e-3 from scratch."""
    schedule: Schedule = "linear"
    """How the learning rate decays. `wsd` (warm-up, stable, decay): it stays at its peak, and falls in a line over the
    last steps alone."""
    warmup: Fraction = 0.03
    """Share of the steps in which the learning rate rises to its peak."""
    decay: Fraction = 0.2
    """For `schedule: wsd`: share of the steps in which the learning rate falls."""
    final_rate: Fraction = 0.05
    """What the learning rate falls to, as a share of `learning_rate`: it would be reached one step after the last."""
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit", "muon"] = "auto"
    """The optimizer. The 8-bit ones (bitsandbytes) keep AdamW's moments in a quarter of the memory; `paged` moves them
    to the CPU when the GPU is full. `muon`, where every weight is trained: orthogonalized momentum for the hidden
    matrices, AdamW for embeddings, head, norms and biases; its steps are scaled to the size of AdamW's, so that
    `learning_rate` means the same. `auto`: `adamw`, or `adamw_8bit` where every weight is trained on a GPU that may be
    too small."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of frozen weights and matrix products. `auto`: bf16 where a GPU has it, fp32 on CPUs and Apple chips.
    Adapters and the optimizer's moments stay in fp32."""
    kernels: Literal["auto", "torch", "liger"] = "auto"
    """Kernels of the training step. `liger`: Liger's fused ones for norms, rotary embeddings, activations and the loss,
    on NVIDIA GPUs (`pip install 'afina[liger]'`). `auto` takes them where they are installed."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile for every layer. `auto` is off: on a CPU a step measured from 9 % longer to 22 %
    shorter, behind 20 s of compiling; elsewhere it has not been measured."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight decay, apart from the gradient as AdamW does it."""
    clip: Positive = 1.0
    """Gradients are clipped to this norm."""
    neftune_alpha: Positive | None = None
    """NEFTune: noise on the embeddings while training; 5 is usual. It is uniform, times alpha/sqrt(length * hidden)."""
    profile: Literal["auto", "8gb", "16gb", "32gb"] | None = None
    """Settings by memory, as on Macs of that size: `max_length`, `batch_tokens`, `accumulate` and
    `checkpoint_activations`, each where the recipe has none of its own. `auto`: by the memory of the GPU or machine
    that reads the recipe; what it chose is in the run's `recipe.yaml`. Null: none."""
    max_length: int = Field(default=1024, ge=16)
    """Longest example in tokens. Longer plain texts become consecutive blocks; for conversations see
    `dataset.on_too_long`."""
    batch_tokens: Count = 1024
    """Tokens of a micro-batch, padding included; this bounds memory."""
    accumulate: Count = 1
    """Micro-batches per optimizer step. Every token weighs the same whatever this is."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """Under torchrun: every process holds the whole model (`ddp`), or a shard of every weight (`fsdp`). `auto` takes
    `ddp` where a GPU can hold the weights. A single process ignores this."""
    share_prefix: bool = True
    """Compute a prefix that all rows of a micro-batch share (a system prompt, a document) only once, where that is
    exact and saves enough."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, about a third more time."""
    tries: int = Field(default=3, ge=0)
    """How often to go back and halve the learning rate when a loss or gradient is NaN or infinite, before giving up."""
    patience: Count | None = None
    """Stop after this many held-out losses without a better one and keep the best weights; null: never."""
    checkpoint_seconds: Positive = 60.0
    """Write a checkpoint at least this often."""
    keep_checkpoints: Count = 2
    """Newest checkpoints to keep on disk, beside the one with the best held-out loss."""
    validate_per_epoch: int = Field(default=1, ge=0)
    """How often the held-out loss is measured in an epoch."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = []
    """Trackers that get each step's metrics besides `metrics.jsonl`. They are configured as always (`WANDB_MODE`,
    `MLFLOW_TRACKING_URI`, ...)."""

    @field_validator("trackers")
    @classmethod
    def _each_tracker_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("trackers names one of them twice")
        return names

    @field_validator("profile")
    @classmethod
    def _profile_is_chosen(cls, name: str | None) -> str | None:
        if name == "auto":
            raise ValueError("profile auto is chosen by `load_recipe` and `check_recipe`: use one of them")
        return name

    @model_validator(mode="after")
    def _stages_and_method_agree(self) -> Train:
        for name in sorted(METHOD_SETTINGS - self.facts.settings):
            if getattr(self, name) != Train.model_fields[name].default:
                theirs = [method for method, facts in METHODS.items() if name in facts.settings]
                raise ValueError(f"{name} belongs to method {in_words(theirs)}: remove it")
        if self.first is None:
            return self
        if not self.facts.follows:
            raise ValueError(
                f"`first` comes before method {in_words(methods_that(follows=True))}, not before {self.method}"
            )
        if self.first.method == self.method:
            raise ValueError(f"`first` is of method {self.method} too: give one stage more epochs instead")
        return self

    @model_validator(mode="after")
    def _decay_and_schedule_agree(self) -> Train:
        stages = [self, self.of_first()] if self.first else [self]
        falling = [stage for stage in stages if stage.schedule == "wsd"]
        if any(stage.warmup + stage.decay > 1 for stage in falling):
            raise ValueError("warmup and decay are shares of the same steps: together 1 at most")
        if not falling and {stage.decay for stage in stages} != {Train.model_fields["decay"].default}:
            raise ValueError("decay belongs to schedule wsd: remove it")
        return self

    @property
    def facts(self) -> Method:
        """What is known of its method."""
        return METHODS[self.method]

    @property
    def unused(self) -> frozenset[str]:
        """Settings of other methods."""
        return METHOD_SETTINGS - self.facts.settings

    @property
    def lanes(self) -> int:
        """Places of a stream that are read side by side."""
        return self.batch_tokens // self.max_length

    def of_first(self) -> Train:
        """The settings of the first stage.

        >>> first = Train(epochs=3, learning_rate=1e-4, first=First(epochs=1)).of_first()
        >>> first.method, first.epochs, first.learning_rate
        ('cpt', 1.0, 0.0001)
        """
        if self.first is None:
            raise ValueError("there is only one stage")
        given = {key: value for key, value in self.first if value is not None}
        defaults = {name: Train.model_fields[name].default for name in METHOD_SETTINGS}
        return self.model_copy(update={"first": None} | defaults | given)


class Retrieval(RecipePart):
    """The rival of a training: the untrained base, with what a plain search finds in the documents in its prompt."""

    passages: Count = 3
    """Passages put before each question, the best match first: sections of the documents, and conversations of the
    sources."""
    questions: Count = 60
    """Most questions of each probe that are asked so; they are long, and so is their reading."""


class Evaluate(RecipePart):
    """What is measured, before and after training."""

    probes: list[Probe] = []
    """Questions with known answers, asked before and after training. For roles not listed here, questions are taken
    from the dataset where it has some."""
    questions: int = Field(default=100, ge=0)
    """Most questions of each probe taken from the dataset; 0: take none."""
    skills: int | None = Field(default=None, ge=0)
    """Most of afina's own questions about skills (format, JSON, lists, lengths, languages, arithmetic, several turns,
    ...), marked by rule; only as many are asked as `limits.broke_max` needs. null: where nothing else asks what the
    base knew (no `replay`, no probe of role retention); 0: none."""
    tasks: list[Task] = []
    """Rows with references that both models answer, scored with metrics and intervals."""
    judge: Judge | None = None
    retrieval: Retrieval | None = None
    """Ask the untrained base too with passages of the documents in its prompt, found by BM25: would that have done
    it? `{}` takes the defaults."""
    samples: int = Field(default=8, ge=0)
    """Held-out questions answered by base and trained model side by side, for the report."""
    max_new_tokens: Count = 64
    """Longest answer in tokens."""
    prompts: Named | None = None
    """A text file, one prompt a line, that the trained model continues: greedily and with fixed seeds, the same for
    every run. From scratch, `limits.guardrails` judge how it writes; the texts stand in `continuations.jsonl`."""
    windows: Windows = Windows()
    limits: Limits = Limits()

    @field_validator("tasks", mode="after")
    @classmethod
    def _task_names_differ(cls, tasks: list[Task]) -> list[Task]:
        if len({task.name for task in tasks}) != len(tasks):
            raise ValueError("two tasks have the same name")
        return tasks


class Budget(RecipePart):
    """What the run may cost."""

    hours: Positive | None = None
    """Most hours: a longer plan is refused, and training stops there with a checkpoint."""
    price_per_hour: Annotated[float, Field(ge=0.0)] = 0.0
    """Price of the device, or of all devices together."""
    currency: str = "US$"
    """How money is printed."""
    money: Positive | None = None
    """Highest cost: a more expensive plan is refused, and training stops there with a checkpoint."""
    anyway: bool = False
    """Start even if the plan says that it will not fit."""


class Launch(RecipePart):
    """How `afina launch` trains this on another machine; no other verb looks at it."""

    devices: Count = 1
    """GPUs of each machine. Each trains as a process of its own (`torchrun`)."""
    nodes: Count = 1
    """Machines that train together: in Slurm's queue, or rented with a disk that all of them see (`shared`)."""
    shared: str | None = None
    """Absolute path, over there, on a disk that all rented machines see: the run is kept below it while they train."""
    volume: Named | None = None
    """SkyPilot's name of the volume that is mounted at `shared`; null: it is there by itself."""
    spot: bool = False
    """Rent what the provider may take back, for less; another machine goes on then."""
    folder: str = "afina-launch"
    """With ssh: where to work over there, below the home or absolute."""
    keep: bool = False
    """With ssh: leave the job's folder there at the end."""
    secrets: list[str] = []
    """Names of further variables of your environment that the job needs; their values are written nowhere."""
    retries: int = Field(default=5, ge=0)
    """How many machines may be lost, or how often Slurm may put the job back, before it is given up."""
    look_seconds: Positive = 15.0
    """Pause between two looks at the job, each with a copy of the run home."""

    @field_validator("secrets", mode="after")
    @classmethod
    def _secrets_are_names(cls, secrets: list[str]) -> list[str]:
        for name in secrets:
            if not VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a variable: give the name, its value stays outside")
        return secrets

    @field_validator("folder", "shared", mode="after")
    @classmethod
    def _places_can_be_named(cls, place: str | None) -> str | None:
        if place is not None and (not _PLACE.fullmatch(place) or ".." in place.split("/")):
            raise ValueError(
                f"{place!r}: the shells and programs of both machines have to read the same in it: use letters, digits "
                "and any of ._+-/ (a path without / at its front counts from the home)"
            )
        return place

    @model_validator(mode="after")
    def _volume_has_a_place(self) -> Launch:
        if self.shared is not None and not self.shared.startswith("/"):
            raise ValueError(f"launch.shared has to be absolute, such as /shared: {self.shared} is not")
        if self.volume is not None and self.shared is None:
            raise ValueError("launch.volume is mounted at launch.shared: set it, e.g. to /shared")
        return self


BackEndName = Literal["torch", "mlx"]


class Recipe(RecipePart):
    """The whole description of a run.

    >>> Recipe(name="x", sources=[Source(path="a.md")], base="folder").train.method
    'sft'
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    """Name of the run and of its folder below `runs/`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """The same seed, data, base and machine give the same result."""
    root: Named = "."
    """Folder that the paths of sources, probes and tasks are relative to; itself relative to this file."""
    base: Named | None = None
    """The model to start from: a folder, a hub id, a GGUF file or `package:NAME`; null for `train.method: scratch`."""
    base_revision: Named | None = None
    """Hub revision of the base; a commit hash for a run that can be repeated."""
    start_from: Named | None = None
    """Folder of a finished run, or of an adapter, whose weights are trained on instead of fresh ones. It has to stand
    on the same base; settings of `adapter` that are left out are its own. Steps and learning rate begin anew."""
    trust_remote_code: bool = False
    """Let code that comes with the base run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train. `auto` takes a GPU or Apple chip if there is one."""
    backend: Literal["auto", BackEndName] = "auto"
    """What computes: `torch`, or `mlx` (mlx-lm's models, on Apple chips and, slowly, on CPUs). `auto`: mlx on an Apple
    chip where mlx-lm is installed and has all that the recipe asks for, else torch."""
    sources: list[Source] = Field(min_length=1)
    dataset: Dataset = Dataset()
    chat: Chat = Chat()
    adapter: Adapter = Adapter()
    scratch: Scratch = Scratch()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    safety: Safety = Safety()
    budget: Budget = Budget()
    launch: Launch = Launch()

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
            if self.start_from is not None:
                raise ValueError(
                    "train.method scratch starts from random weights: remove `start_from`; to go on with a model from "
                    "scratch, name its folder as `base` (RUN/model), with method cpt or sft"
                )
            if self.base is not None:
                raise ValueError("train.method scratch starts from random weights: remove `base`, or use cpt or sft")
        elif self.base is None:
            raise ValueError(f"train.method {self.train.method} needs `base`, a folder or a hub id to start from")
        teacher = self.dataset.teacher
        if self.base is None and teacher is not None and teacher.is_base:
            raise ValueError("dataset.teacher.model base needs a `base`: random weights teach nothing")
        placed = [position for position, source in enumerate(self.sources) if source.stage != "auto"]
        if placed and self.train.first is None:
            raise ValueError(f"sources.{placed[0]}.stage needs `train.first`: there is only one stage")
        return self

    @model_validator(mode="after")
    def _backend_has_it(self) -> Recipe:
        for name, other, missing in (("mlx", "torch", self.beyond_mlx), ("torch", "mlx", self.beyond_torch)):
            if self.backend == name and missing:
                raise ValueError(f"backend {name} has no {', no '.join(missing)}: remove it, or take backend {other}")
        return self

    @model_validator(mode="after")
    def _stream_can_be_read(self) -> Recipe:
        if not self.reads_stream:
            return self
        train = self.train
        if train.batch_tokens < train.max_length:
            raise ValueError(
                f"scratch.kind {self.scratch.kind} reads train.batch_tokens // train.max_length places of the stream "
                f"side by side, and {train.batch_tokens} // {train.max_length} is none: raise batch_tokens"
            )
        for name, value in (("compile", "on"), ("checkpoint_activations", True), ("parallel", "fsdp")):
            if getattr(train, name) == value:
                raise ValueError(
                    f"train.{name}: the layers of scratch.kind {self.scratch.kind} are one operation of torch, which "
                    "is not compiled, computed again or shared out: remove it"
                )
        return self

    @model_validator(mode="after")
    def _canaries_can_be_learned(self) -> Recipe:
        if self.safety.canaries and self.train.facts.judged and self.train.first is None:
            raise ValueError(
                f"safety.canaries are rows to learn, and train.method {self.train.method} learns judged answers: "
                "remove `canaries`, or learn answers first (`train.first: {method: sft}`)"
            )
        if self.safety.canaries and self.train.method == "scratch" and self.scratch.normalize_numbers:
            raise ValueError(
                "safety.canaries are codes of digits, and with scratch.normalize_numbers all of them are 0: remove one"
            )
        return self

    @model_validator(mode="after")
    def _what_can_be_sharded(self) -> Recipe:
        if self.train.parallel == "fsdp" and (self.adapter.kind == "qlora" or self.train.optimizer.endswith("8bit")):
            raise ValueError(
                "train.parallel fsdp cannot shard bitsandbytes' weights or moments: use adapter.kind lora or none "
                "with optimizer adamw, or parallel ddp"
            )
        if self.train.parallel == "fsdp" and self.train.optimizer == "muon":
            raise ValueError(
                "train.optimizer muon orthogonalizes whole matrices, of which fsdp gives each process a part: use "
                "optimizer adamw, or parallel ddp"
            )
        return self

    @model_validator(mode="after")
    def _muon_has_whole_matrices(self) -> Recipe:
        if self.train.optimizer == "muon" and not self.trains_all:
            raise ValueError(
                "train.optimizer muon orthogonalizes the update of a whole matrix, and an adapter's are those of its "
                "two factors: use adamw, or train every weight (adapter.kind: none)"
            )
        return self

    @property
    def trains_all(self) -> bool:
        """Whether every weight is trained: no adapter stands over a frozen base."""
        return self.train.method == "scratch" or self.adapter.kind == "none"

    @property
    def beyond_mlx(self) -> list[str]:
        """What this recipe asks for and backend mlx does not have, with what it has instead."""
        train, adapter = self.train, self.adapter
        methods = [train.method, *([train.first.method] if train.first else [])]
        known = in_words(methods_that(by_mlx=True), "and")
        variants = "(it has lora, rslora and dora)"
        found = {f"train.method {name} (it has {known})": not METHODS[name].by_mlx for name in methods}
        found |= {
            f"train.optimizer {train.optimizer} (it has adamw)": train.optimizer not in ("auto", "adamw"),
            "train.neftune_alpha": train.neftune_alpha is not None,
            "train.kernels liger": train.kernels == "liger",
            "train.compile on": train.compile == "on",
            f"adapter.variant {adapter.variant} {variants}": adapter.variant in ("pissa", "loftq"),
            "adapter.modules_to_save": bool(adapter.modules_to_save),
            "device cuda (it has Apple chips and CPUs)": self.device == "cuda",
        }
        return [what for what, asked in found.items() if asked]

    @property
    def beyond_torch(self) -> list[str]:
        """What this recipe asks for and backend torch does not have."""
        adapter = self.adapter
        found = {
            "adapter.bits 8 (its qlora is NF4, of 4 bits)": adapter.bits == 8,
            f"adapter.group_size {adapter.group_size} (NF4 has blocks of 64)": adapter.group_size is not None,
        }
        return [what for what, asked in found.items() if asked]

    @property
    def reads_stream(self) -> bool:
        """Whether training reads one stream of all documents, carrying a state, instead of rows."""
        return self.train.method == "scratch" and self.scratch.recurrent

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
        """What decides which stage learns an example, and how; empty where there is only one stage."""
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
    def prose_can_be_asked(self) -> bool:
        """Whether the trained model can answer questions about prose. Random weights that read texts never learn to
        answer any; their loss on held-out texts tells what they learned."""
        return self.train.method != "scratch"

    @property
    def asks_prose(self) -> bool:
        """Whether the dataset's questions about prose are asked."""
        return bool(self.evaluate.questions) and not self.train.facts.judged and self.prose_can_be_asked

    @property
    def most_windows(self) -> int:
        """Most windows of held-out text that are read."""
        if self.evaluate.windows.count is not None:
            return self.evaluate.windows.count
        return WINDOWS if self.train.facts.every_token else 0

    @property
    def most_skills(self) -> int:
        """Most of afina's own questions about skills that are asked."""
        if self.train.method == "scratch":  # random weights have none
            return 0
        if self.evaluate.skills is not None:
            return min(self.evaluate.skills, SKILL_QUESTIONS)
        replay = any(source.replay for source in self.sources)
        return SKILL_QUESTIONS if "retention" in self.roles_from_dataset and not replay else 0

    @property
    def section_chars(self) -> int:
        """Longest section in characters."""
        return self.dataset.section_chars or 2 * self.train.max_length

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out."""
        return yaml_of(self.model_dump(mode="json"))
