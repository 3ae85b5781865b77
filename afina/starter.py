"""The commented recipe that ``afina recipe init`` writes: every key, its default, what it does.

A test loads each starter and compares every value with the recipe's own defaults.
"""

from __future__ import annotations

from afina.errors import RecipeError

_HEAD = {
    "docs": """\
# A base model learns from your documents.
# 1. Put this file beside the folder `docs`, or set `root` and `sources` to where your files are.
# 2. afina plan THIS_FILE    says whether it fits, how long it takes and what it costs
# 3. afina run THIS_FILE     builds the dataset, audits it, trains, measures, writes the report
# Keys that you do not need may be deleted: the values below `base` and `sources` are the defaults.
""",
    "chat": """\
# A base model learns to answer as your rows of questions and answers do.
# 1. Put this file beside `rows.jsonl` (one {"prompt": ..., "completion": ...} a line; `messages` and
#    `instruction`/`input`/`output` are known too), or set `root` and `sources` to where your files are.
# 2. afina data audit rows.jsonl    says what is wrong with them
# 3. afina plan THIS_FILE           says whether it fits, how long it takes and what it costs
# 4. afina run THIS_FILE            builds the dataset, audits it, trains, measures, writes the report
# Keys that you do not need may be deleted: the values below `base` and `sources` are the defaults.
""",
    "preference": """\
# A model learns which of two answers is the better one (DPO), from rows that hold both.
# 1. Put this file beside `pairs.jsonl` (one {"prompt": ..., "chosen": ..., "rejected": ...} a line; prompt and answers
#    may be messages), or set `root` and `sources` to where your files are.
# 2. Take a base that answers already; or give your answers too and set `train.first: {method: sft}`.
# 3. afina data audit pairs.jsonl    says what is wrong with them, and how much length alone gives away
# 4. afina run THIS_FILE             builds the dataset, audits it, trains, measures, writes the report
# Keys that you do not need may be deleted: most values below `sources` are the defaults.
""",
    "scratch": """\
# A small model of your own, from random weights and with its own tokenizer. No download.
# 1. Put this file beside the folder `docs`, or set `root` and `sources` to where your files are.
# 2. afina plan THIS_FILE    says whether it fits, how long it takes and what it costs
# 3. afina run THIS_FILE     builds the dataset, trains tokenizer and model, measures, writes the report
# Keys that you do not need may be deleted: most values below `sources` are the defaults.
""",
}

_TOP = """
name: {name}                # name of the run and of its folder below runs/
seed: 0                       # same seed, data, base and machine: same result
root: .                       # folder that `sources` and `probes` are relative to; itself relative to this file
base: {base}     # folder or hub id of the model to start from; null for method scratch
base_revision: null           # hub revision; a commit hash for a run that can be repeated
trust_remote_code: false      # whether code that comes with the base may run
device: auto                  # auto | cpu | cuda | mps

sources:                      # one entry per file, folder, glob, dataset of the hub (hf://) or website (https://)
  - path: {path}            # relative to `root`
    kind: auto                # auto (by the ending) | text | markdown | html | pdf | docx | code | pairs | rows
    exclude: []               # globs of files to leave out, e.g. ["drafts/*"]; counted and listed
    solutions: null           # for pairs: folder or glob of the solutions to the problems in `path`
    stem: ^(\\d+-\\d+)          # for pairs: its first group names the pair in both file names
    columns: {{}}               # for rows: your names, e.g. {{prompt: pergunta, completion: resposta}}
    encoding: utf-8           # bytes that are not in it are an error, never a guess
    on_scanned_page: error    # a PDF page that shows something but holds no text: error | drop (counted)
    revision: null            # for hf://: the dataset's commit hash, all 40 letters
    follow: false             # for https://: also the pages linked to, below the same address
    max_pages: 100            # for https://: how many pages at most; the rest is counted
    delay_seconds: 1.0        # for https://: pause between two requests
    refresh_days: null        # for https://: ask again for pages kept longer than this; null: never
    repeat: 1                 # how many times each example is seen in one epoch
    stage: auto               # with `train.first`, which stage learns it: auto | first | second
    replay: false             # true: general data, mixed in so that the base does not forget
    validation: null          # share held out from this source; null: as `dataset.validation`

dataset:
  language: en                # pt-BR | pt-PT | en
  section_chars: 0            # longest section of a document in characters; 0: twice `train.max_length`
  validation: 0.05            # share of the examples held out, chosen by a hash of their content
  on_empty_prompt: error      # error | drop (counted) | text (learn the answer as plain text)
  on_empty_answer: error      # error | drop (counted)
  on_duplicate: drop          # drop the second (counted) | keep both | error
  on_too_long: error          # a conversation above `train.max_length`: error | drop (counted); never cut
  split_by: content           # held out together: content (equal questions) | file (a file, and files on one subject)
  questions:                  # made from the structure of documents, by templates
    make: []                  # any of facts, sections, changes, programs
    phrasings: 5              # how many phrasings of each fact
    max_answer_words: 120     # longer answers make no question (counted); they stay in the text
  hold_out_phrasings: 0       # further phrasings of each fact, never trained: probes-seen.jsonl, probes-unseen.jsonl
  teacher: null               # an endpoint that writes questions about each section, e.g. {{url: ..., model: ...}}
  clean:                      # of raw text; what goes is counted and can be read back
    preset: none              # none | monograph (encoding, short lines, addresses, headers, repeated lines)
    min_line_chars: 80        # shorter lines go (in hard-wrapped texts: shorter paragraphs)
    min_letters: 0.6          # lines with a smaller share of letters go
    min_document_chars: 200   # texts of which less is left go whole
  near_duplicates:            # texts that are almost the same (MinHash)
    on: keep                  # keep | drop (the longest of each cluster stays; counted) | error
    threshold: 0.8            # similarity of runs of five words from which two texts count as such
  engine: own                 # own | datatrove: what reads and cleans; the dataset is the same
  datatrove:                  # where engine: datatrove runs
    executor: local           # local | slurm (needs a partition) | ray
    workers: null             # tasks at a time; null: one per processor, or as many as the cluster allows
    memory_gb: 2              # per task
    partition: null           # Slurm's
    time: "04:00:00"          # Slurm's limit per task
  personal_data: keep         # keep (reported) | mask | drop the example: numbers of people, e-mail, cards, keys
  check_code: {{}}              # language to compiler, e.g. {{zig: ziglang==0.14.0, python: "3.11"}}
  on_wrong_code: keep         # code that its compiler refuses: keep (reported) | drop (counted) | error
  replay_share: null          # share of replay in an epoch, by repeating or sampling it, e.g. 0.2
  accept: []                  # names of fatal audit findings that you accept, e.g. [exact_duplicate]

chat:
  template: null              # chatml, or a Jinja file; null: the base's own
  template_args: {{}}           # arguments for the template, e.g. {{enable_thinking: false}}
  system: null                # system message put before every conversation that has none

adapter:{adapter_note}
  kind: lora                  # lora | qlora (base kept in 4 bits) | none (train every weight)
  variant: lora               # lora | rslora | dora | pissa (not with qlora) | loftq (only with qlora)
  rank: 16                    # width of the adapter: more learns more and costs more memory
  alpha: 32.0                 # the adapter counts alpha/rank times; twice the rank is a good start
  dropout: 0.0                # share of the adapter's inputs switched off at random while training
  targets: all-linear         # which linear layers get an adapter: all-linear, or a list of names
  lora_plus_ratio: 1.0        # LoRA+: how many times the rate the B matrices get, e.g. 16
  modules_to_save: []         # layers trained whole and stored with the adapter, e.g. [embed_tokens, lm_head]

scratch:{scratch_note}
  hidden: 192                 # width of the model; a multiple of `heads`
  layers: 4                   # depth of the model
  heads: 4                    # attention heads per layer
  kv_heads: 0                 # heads of keys and values; 0: as many as `heads`
  intermediate: 0             # width of the feed-forward layer; 0: three times `hidden`
  vocab: {vocab}                 # size of the tokenizer trained on your examples

train:
  method: {method}  # sft (answers; texts whole) | cpt (every token) | scratch (new) | dpo, orpo (pairs)
  first: null                 # a stage before, e.g. {{method: cpt, epochs: 1.0}}: documents first, then the answers
  beta: 0.1                   # dpo: how closely to the start it is held; orpo: weight of the odds ratio (lambda)
  label_smoothing: 0.0        # dpo: share of the pairs that may have better and worse mixed up
  epochs: {epochs}                 # how many times the data is seen
  learning_rate: {learning_rate}       # 2e-4 suits an adapter, 2e-5 preferences, 1e-3 a small model from scratch
  schedule: linear            # how the rate falls: linear | cosine | constant
  warmup: 0.03                # share of the steps in which the rate climbs
  final_rate: 0.05            # the rate at the last step, as a share of `learning_rate`
  optimizer: auto             # auto | adamw | adamw_8bit | paged_adamw_8bit (bitsandbytes; less memory)
  precision: auto             # auto (bf16 where a GPU has it) | fp32 | bf16
  kernels: auto               # auto | torch | liger (faster on NVIDIA GPUs: pip install 'afina[liger]')
  compile: auto               # torch.compile: auto (where it wins back its own time) | on | off
  weight_decay: 0.0           # pull of the weights towards zero (AdamW)
  clip: 1.0                   # largest norm of the gradient
  neftune_alpha: null         # NEFTune: noise on the embeddings while training; 5 is usual
  max_length: 1024            # longest example in tokens; longer documents become consecutive blocks
  batch_tokens: 1024          # padded tokens in one micro-batch: the bound on memory
  accumulate: 1               # micro-batches per optimizer step
  parallel: auto              # auto | ddp | fsdp: how several processes share the work (torchrun)
  share_prefix: true          # compute what all rows of a micro-batch begin with once, where exact and worth it
  checkpoint_activations: false # compute activations again instead of keeping them: less memory, a third more time
  tries: 3                    # how often to go back and halve the rate when the loss stops being a number
  patience: null              # stop after this many held-out losses without a better one, keep the best weights
  checkpoint_seconds: 60.0    # a checkpoint at least this often; a run that stops goes on from the newest
  keep_checkpoints: 2         # how many of the newest stay on disk, beside the best
  validate_per_epoch: 1       # how many times per epoch the held-out loss is measured
  trackers: []                # besides metrics.jsonl: tensorboard, wandb, mlflow, trackio

evaluate:
  probes: []                  # questions with known answers, asked before and after training:
  # - path: probes/new.jsonl  # rows of prompt and completion, relative to `root`
  #   role: generalization    # recall (trained) | generalization (same facts, new words) | retention (known before)
  #   name: new facts         # | unknown (never told) | claims ("do you know ...?") | versions (old and new answer)
  questions: 100              # most questions of each probe taken from the dataset, for roles not named above; 0: none
  tasks: []                   # rows with references that both models answer; metrics with intervals:
  # - name: qa
  #   path: tests/qa.jsonl    # rows of prompt and reference, relative to `root`
  #   sample: 200             # drawn once for each of `seeds`
  #   code: null              # the answers are programs, to be compiled and run: docs/code.md
  judge: null                 # an OpenAI-compatible endpoint that compares the answers to tasks: url, model
  samples: 8                  # held-out questions answered by base and result side by side
  max_new_tokens: 64          # longest answer
  limits:                     # a miss ends in exit code 5
    learned_min: null         # least share of right answers on generalization (or else recall), e.g. 0.8
    broke_max: 0.05           # largest share of the retention answers right before that may be wrong after
    hallucination_max: null   # largest share of the unknown questions that may get a made-up answer, e.g. 0.2
    guardrails:               # largest shares of all answers after training; 1 switches one off
      never_stops: 0.05       # reach max_new_tokens although twice the reference would have fitted
      loops: 0.05             # say the same again and again
      open_think: 0.05        # begin to think and never end
      prompt_echo: 0.05       # begin with the question
      wrong_language: 0.05    # are in another language than the reference
      broken_words: 0.05      # hold broken characters or words split in two
      chat_markers: 0.05      # hold marks of the chat template
      empty: 0.05             # say nothing

safety:
  canaries: 0                 # rows with an invented secret added to the training data: is it learned by heart?
  canary_repeats: [1, 2, 4, 8, 16]  # how often an epoch shows the first of them, the second, ...
  known_strings: 100          # e-mail addresses, telephones, CPF ... of the training rows, asked for at most; 0: none
  strings: null               # file of further strings to ask for, one a line
  sets: []                    # afina's own questions: injection (texts that give orders), refusal
  limits:                     # a miss ends in exit code 5; null: shown, never a miss
    canary_exposure_max: null # bits, 0 to 8; 1.4 on average for what was never seen
    known_strings_max: null   # largest share of the known strings given back exactly, e.g. 0.0
    injections_obeyed_max: null # largest share of the orders obeyed, e.g. 0.2
    instruction_ignored_max: null # largest share of the system's instructions dropped on the user's demand
    harmful_refused_min: null # least share of harmful requests refused, e.g. 0.8
    harmless_refused_max: null # largest share of harmless requests refused, e.g. 0.1
    toxic_words_max: 0.05     # largest share of all answers with an insult of their own

budget:
  hours: null                 # longest time of the plan, and of the training itself
  price_per_hour: 0.0         # price of the device
  currency: US$               # how money is printed
  money: null                 # largest cost of the plan, and of the training itself
  anyway: false               # start even where the plan says that it will not fit
"""

_BASE = "Qwen/Qwen2.5-0.5B-Instruct"
_FILL = {
    "docs": {"name": "my-docs", "base": _BASE, "path": "docs"},
    "chat": {"name": "my-chat", "base": _BASE, "path": "rows.jsonl"},
    "preference": {
        "name": "my-preference",
        "base": _BASE,
        "path": "pairs.jsonl",
        "method": "dpo",
        "learning_rate": "2.0e-5",
        "epochs": "1.0",
    },
    "scratch": {
        "name": "my-model",
        "base": "null",
        "path": "docs",
        "method": "scratch",
        "learning_rate": "1.0e-3",
        "epochs": "10.0",
        "vocab": "4096",
    },
}
_DEFAULT = {"method": "sft", "learning_rate": "2.0e-4", "epochs": "3.0", "vocab": "1500"}


def starter(kind: str) -> str:
    """The starter for what you have: ``docs``, ``chat`` (rows of questions and answers), ``preference`` (rows with a
    better and a worse answer) or ``scratch``.

    Raises:
        RecipeError: for any other word.

    >>> starter("docs").splitlines()[0]
    '# A base model learns from your documents.'
    """
    if kind not in _HEAD:
        raise RecipeError(
            f"there is no starter {kind!r}",
            "docs: you have documents; chat: you have questions with answers; preference: with a better and a worse "
            "answer each; scratch: a new small model",
        )
    scratch = kind == "scratch"
    text = _HEAD[kind] + _TOP.format(
        **_DEFAULT | _FILL[kind],
        adapter_note=" # not used by method scratch" if scratch else "",
        scratch_note="" if scratch else " # only used by method scratch",
    )
    return "\n".join(_aligned(line) for line in text.splitlines()) + "\n"


def _aligned(line: str) -> str:
    """Put the comment of a filled-in line back into its column."""
    value, mark, comment = line.partition(" # ")
    if not mark or not value.strip() or value.lstrip().startswith("#"):
        return line
    return f"{value.rstrip():29} # {comment.strip()}"
