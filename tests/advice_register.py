"""Which advice of the package a test follows, and why the rest is not followed. A new piece has to be in one."""

from __future__ import annotations

FOLLOWED: dict[str, tuple[str, ...]] = {
    # module -> a part of the text, as it stands in the source (… for what is filled in)
    "dataset/audit/audit.py": ("did you mean `…`?",),
    "dataset/audit/rules.py": (
        "take them out of the texts: afina writes the marks itself", "keep one answer, or make the prompts differ"),
    "dataset/audit/token_audit.py": (
        "or set `chat.marks_in_text: words`", "set `train.max_length: …`, or `dataset.on_too_long: drop`"),
    "dataset/build/gather.py": ("set `dataset.engine: own`",),
    "dataset/build/intake.py": (
        "`dataset.on_empty_prompt: drop`", "`dataset.on_empty_answer: drop`", "`dataset.on_duplicate: drop`",
        "`dataset.near_duplicates.on: drop`", "learn the better answers alone", "learn all answers alike",
        "`columns: {label: NAME}`", "set `train.method: sft`"),
    "dataset/build/mix.py": (
        "leave `replay` out", "name a second source", "or a smaller `validation`", "set `replay: true` on a source"),
    "dataset/build/split.py": ("give more data, or a smaller `dataset.validation`",),
    "export/export.py": (
        "use …", "--to … says what is written already", "use --to merged", "leave --quantize out",
        "use --to gguf or mlx", "use …, q8 or q4"),
    "improve/improve.py": ("or bound the time: --hours",),
    "improve/rows.py": ("start the same command again: the rows are made anew",),
    "model/adapter_torch.py": ("its embedding and its output are …", "adapter.rank: … or less"),
    "model/base.py": ("leave … out of adapter.targets", "set train.max_length to … or less"),
    "model/shape.py": ("did you mean …?",),
    "plan/bases.py": ("name its folder, or download it",),
    "plan/check.py": ("…a faster device or …", "…a cheaper device or …",
                      "give `budget.price_per_hour`"),
    "plan/device.py": ("did you mean …?", "write one of them"),
    "plan/scratch.py": ("write it like 7B, 350M or 140e9 as 140B",),
    "recipe/load.py": (
        "did you mean `…`?", "`afina recipe schema` lists what is allowed", "set `root` to the folder of your files",
        "check the path, or set `root`", "name a folder with config.json", "write it as train.epochs=2",
        "put it in quotes", "see `afina recipe schema`", "name a Jinja file, or `chatml`"),
    "recipe/methods.py": ("one of …",),
    "recipe/starter.py": ("docs: you have documents",),
    "report/compare.py": ("name two folders: `afina compare RUN RUN`",),
    "run.py": ("remove the file, then: …",),
    "sandbox/compilers.py": ("write zig=ziglang==0.14.0",),
    "score/columns.py": ("name it: --prediction COLUMN", "name it: --reference COLUMN", "its columns: …"),
    "score/normalize.py": ("choose … (none leaves every word in)",),
    "score/score.py": ("did you mean `…`?", "name them (--choices A,B,C,D)"),
    "serve/identity.py": ("measure it first: afina eval …", "it was measured without a question"),
    "serve/preflight.py": ("give --api-key (or AFINA_API_KEY), or stay with 127.0.0.1",),
    "serve/serve.py": ("write --adapter NAME=RUN", "choose another name", "write scheme, host and port",
                       "--engine local"),
    "serve/terminal_chat.py": ("use …",),
    "sources/rows.py": ("`columns: {label: …}`",),
    "tokenizer/encode.py": ("set `train.max_length: …`, or `dataset.on_too_long: drop`",
                            "or `dataset.on_not_rendered: drop`"),
    "tokenizer/load.py": ("name a Jinja file, or `chatml`",),
    "tokenizer/template.py": (
        "set `chat.template: chatml` or a Jinja file", "set `chat.template: chatml` (or a Jinja file)",
        "give it the turns that it takes", "or set `chat.marks_in_text: words`", "set `chat.system_turn: fold`"),
    "walk/base.py": ("set `safety.canaries: 0`",),
    "walk/audit.py": ("… (or accept it: dataset.accept: […])",),
    "walk/rows.py": ("or remove `train.first`",),
}  # fmt: skip

NOT_FOLLOWED: dict[str, tuple[tuple[str, str], ...]] = {
    # why -> (module, text) as regular expressions; an empty text holds for advice that names no setting alone
    "it lists what there is; the tests of its module choose from the list": (
        ("", r"^(known|there are|use one of|layers here|it has|known here)\b.*…"), ("", r"^did you mean"),
        ("sources/files.py", "are the usual ones$"), ("sources/row_shapes.py", "^name the columns of one shape"),
        ("(cli/output|plan/shape|model/shape)", "^(use …|known are)"),
    ),
    "a file, a row or a text is mended by hand: there is no setting to follow": (
        ("sources/", ""), ("text/(example|formats|prose_question).py", ""), ("score/output_checks.py", ""),
        ("score/(columns|score).py", ""), ("report/published.py", ""),
        ("evaluate/(probes|choice|tasks|code_task|safety/known).py", ""), ("dataset/audit/(audit|rules|show).py", ""),
        ("evaluate/prompts.py", ""), ("evaluate/prompts.py", "leave `evaluate.prompts` out$"),
        ("dataset/audit/(clean_copy|difference).py", ""),
        ("walk/rows.py", "^the lines above say why"), ("dataset/audit/clean_copy.py", "`afina data build`$"),
        ("cli/data.py", "^(check the path|name (one JSONL file|a base's folder))"),
        ("dataset/build/(split|code_policy|build|answers).py", ""), ("dataset/build/answers.py", "`dataset.answers`"),
        ("plan/tables.py", ""), ("recipe/(load|edit).py", ""),
        ("tokenizer/(marks|load|own_file).py", ""), ("tokenizer/load.py", "name it in `chat.template`"),
        ("export/(ollama|template).py", ""), ("export/template.py", "a Jinja file of your own"),
        ("model/shape(_table)?.py", ""),
        ("sources/files.py", "set `encoding"), ("sources/(rows|__init__).py", "`kind: text`"),
        ("sources/pdf.py", "`on_scanned_page: drop`"), ("evaluate/safety/known.py", "remove safety.strings"),
        ("dataset/build/code_policy.py", "`dataset.on_wrong_code: drop`"),
    ),
    "it is printed with a finding that stops nothing, or that stops other settings followed here": (
        ("dataset/audit/rules.py", "^(nothing to do|give|`dataset|decode|fix|set|end|write one|normalize|convert)"),
        ("dataset/audit/rules.py", "whose marks are tokens of this base$"),
    ),
    "it says what to write into the rows, or which base has a place for them; test_templates.py tries both": (
        ("tokenizer/(template|chat).py", "^(give (it a|its)|known:|put them into|remove the row)"),
        ("dataset/audit/rules.py", "^start from a base whose template"),
    ),
    "a package, a program, a device or a network is needed that a test has not": (
        ("", "pip install"), ("dataset/build/datatrove_tasks.py", ""), ("endpoint/", ""), ("sources/(hub|web).py", ""),
        ("dataset/processes.py", ""), ("plan/installing.py", ""), ("model/hub.py", ""),
        ("export/(push|out|dataset_folder).py", ""),
        ("evaluate/benchmarks.py", ""), ("walk/benchmarks.py", "lm-eval$"), ("export/converters.py", ""),
        ("llamacpp/(gguf_vocab|gguf_write|program|base_file).py", ""), ("plan/doctor.py", ""),
        ("model/choices.py", "^(train|install)"), ("model/steps/liger_torch.py", "^train.kernels: torch"),
        ("sandbox/", ""), ("train/(ranks|shard_torch|stream_torch|trackers).py", ""), ("walk/follower_rank.py", ""),
        ("plan/device.py", ""), ("machine.py", "^plan for a named device"), ("plan/device.py", "device: (auto|cpu)"),
        ("train/ranks.py", "device=cpu$"), ("train/trackers.py", "remove it from train.trackers"),
        ("model/load_torch.py", "^use one of"), ("model/generate/grammar.py", ""),
        ("cli/opened.py", "^unset WORLD_SIZE"), ("train/stream_torch.py", "^start it without torchrun"),
        ("dataset/build/build.py", "^set `dataset.teacher.url`"),
        ("dataset/build/datatrove_tasks.py", "dataset.datatrove"), ("whole.py", "^make room"),
    ),
    "a folder was damaged: it is copied again, or the run started again (test_damaged.py)": (
        ("model/base_damage.py", ""), ("model/load_torch.py", ""), ("model/base.py", "^copy the adapter"),
        ("run.py", "^remove the file and start"), ("report/read.py", ""), ("train/checkpoint.py", ""),
        ("tokenizer/tokens.py", ""), ("walk/context.py", "^copy the whole run"), ("recipe/load.py", "^copy the recipe"),
        ("model/generate/generate_torch.py", "^the weights are damaged"), ("serve/terminal_chat.py", "^the weights"),
    ),
    "it names another model or run; test_base_kinds.py, test_start_from.py and test_moved.py open that one": (
        ("model/base_kind.py", ""), ("model/base.py", ""), ("model/base_kind.py", "^name the unquantized"),
        ("model/base_kind.py", "name a Transformer$"),
        ("model/base.py", "^adapter.variant: lora"), ("recipe/start_from.py", ""), ("walk/start.py", ""),
        ("recipe/start_from.py", "(`base: …`|^leave adapter)"), ("walk/start.py", "(`base: …`|adapter.kind out|name=)"),
        ("export/(origin|export|merge_torch|gguf_head|programs).py", ""), ("llamacpp/lora_write.py", ""),
        ("model/stored_precision.py", ""), ("llamacpp/base_file.py", "base=PATH"),
        ("serve/(opened|preflight|serve|commands|listening).py", ""),
        ("walk/describe.py", ""), ("run.py", ""), ("(cli/recipes|cli/bases|cli/verbs|errors).py", ""),
        ("model/base.py", "base=PATH"),
        ("model/base_kind.py", "(`sources`|^only train.method scratch)"), ("walk/base.py", "^this is a defect"),
        ("model/gguf_(file|base|folder|torch|tokenizer).py", ""), ("model/base_copy.py", ""),
    ),
    "a client is to ask otherwise: the tests of serving and of chat ask in each way": (
        ("serve/(answers|messages|tools|identity|terminal_chat|llamacpp_driver).py", ""),
        ("llamacpp/completion.py", ""), ("model/generate/", ""),
    ),
    "options of a command are to be left out: test_plan_more.py and test_command_line.py give each of them": (
        ("cli/(plan_options|verb).py", ""), ("plan/tokens.py", "^leave --tokens out"),
    ),
    "it takes a training that goes wrong, and another to see it go right": (
        ("train/guard.py", "train\\."), ("train/loop.py", ""), ("train/loop.py", "budget.hours"),
        ("train/memory_torch.py", "train.batch_tokens"), ("train/switches_torch.py", "train.checkpoint_activations"),
        ("tokenizer/encode.py", "^give rows of two questions"), ("walk/chosen_settings.py", ""),
        ("model/adapter_torch.py", "^use variant lora"),
    ),
    "it names other texts or another tokenizer, which test_written.py gives": (
        ("evaluate/(sample_files|sample_report).py", ""), ("evaluate/sample_files.py", "`evaluate.prompts`, or a file"),
        ("evaluate/sample_files.py", "what `afina guardrails --json` printed"),
        ("evaluate/sample_report.py", "--(tokenizer|keep-prompts|words)"),
    ),
    "it is followed where its module is tested (test_watch, test_plot)": (
        ("plot/plot.py", ""), ("plot/plot.py", "--to FOLDER"), ("watch/(live|reader).py", ""),
        ("watch/live.py", "--once"), ("watch/reader.py", "`afina run`"),
    ),
    "it is followed where its module is tested (test_temper), or another adapter has to be trained": (
        ("temper/", ""), ("temper/(adapters|dial_torch).py", "^(train (an adapter|it without)|temper it)"),
        ("temper/asking.py", "^name questions"),
    ),
    "it is followed where its module is tested (test_shortcuts, test_rounded, test_shape_walk, test_mlx, ...)": (
        ("base_replay.py", ""), ("base_replay.py", "`replay`"),
        ("cli/machine.py", "^(afina doctor (RUN --apply|--fix)|`afina doctor --fix --yes`)"),
        ("remedies/answer.py", "^name the recipe"),
        ("model/adapter_torch.py", "^remove … from adapter.targets"), ("model/base_kind.py", "trains over those"),
        ("model/adapter_torch.py", "^leave it out for all"), ("model/base_kind.py", "^`backend: mlx` trains over it"),
        ("model/(mlx/|back_ends|opened_by|skeleton_torch)", "backend"), ("model/mlx/", ""),
        ("model/mlx/", "adapter[.]group_size|leave adapter[.]|device: cpu|max_length: …, or backend"),
        ("train/backend_torch.py", "^train.parallel: ddp"), ("model/shape_(read|walk_torch).py", ""),
        ("model/base.py", "^adapter.kind: lora$"),
        ("tokenizer/(pieces|sentencepiece_model).py", ""), ("tokenizer/sentencepiece_model.py", "scratch[.]"),
        ("walk/tokenizer.py", "^raise `scratch.vocab`"), ("(tokenizer_page|model/named_tokenizer).py", ""),
        ("dataset/audit/rules.py", "^start from a base whose tokenizer"),
    ),
    "it asks for another folder, base, hash or run, which test_verify.py and test_gate.py give": (
        ("verify/", ""), ("verify/verify.py", "--base BASE|sha256sum"), ("verify/asked_again.py", "--base BASE"),
        ("verify/proof.py", "--to hub-folder"), ("report/gate.py", ""),
        ("report/gate.py", "evaluate.probes|afina eval"),
    ),
    "it names another run, or what test_why.py gives": (
        ("why/", ""), ("why/", "(adapter[.]|train[.]method|`backend: torch`|--answer)"),
    ),
    "the way out is a larger device or a smaller base": (
        ("plan/check.py", "or a device with more memory"), ("walk/(planning|plan_answers).py", ""),
    ),
    "it asks for other runs, which test_scaling.py names": (
        ("(plan/scaling|walk/scaling_runs).py", "^(train|name|afina plan|finish|measure)"),
    ),
    "another machine is needed, or a stand-in of one, which test_launch.py has": (
        ("launch/", ""), ("launch/", "--|`afina plan|budget[.]|device=auto|backend=auto|sky |[A-Z_]+=|.*"),
    ),
    "only a tokenizer that cannot write ChatML gets there, and none is known": (
        ("tokenizer/template.py", "^this tokenizer needs a template of its own"),
    ),
    "a page says it to whoever looks at it, who does it there (test_studio*); or the verb's own words follow it": (
        ("studio/", ""), ("studio/", "`afina (studio|data audit RECIPE)"), ("studio/serving.py", "^--port 0"),
        ("dataset/audit/places.py", "^write FILE:LINE"),
    ),
    "an agent is told what to name, or whom to ask; test_mcp.py asks in each way": (
        ("mcp_server/", ""), ("mcp_server/(reach|verbs).py", "--(root|allow-runs)|train.epochs=2|afina (eval|run)"),
        ("run_process.py", ""),
    ),
    "nobody outside of afina can do anything about it": (("", "(defect of afina|please report)"),),
}  # fmt: skip
