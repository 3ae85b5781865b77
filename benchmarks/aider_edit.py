"""Aider itself, configured by `afina serve --config aider`, edits a file through the local server.

    python benchmarks/aider_edit.py --aider PATH/TO/aider     # pip install aider-chat, in an environment of its own

The model is made by hand and knows one answer: each of its tokens names the next, whatever was asked. So what is
looked at is the protocol from Aider's first request to the commit, not what a model can do. Without Aider a plain
client asks by the address and the name that the settings give.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from serve_load import Server, serving

from afina.machine import free_port

BEFORE = "print('hello')\n"
AFTER = "print('olá, mundo')\n"
ANSWER = ("Claro.\n", "\n", "hello.py\n", "```\n", AFTER, "```")
"""As Aider's edit format `whole` wants it."""
ASKED = "Greet the world in Portuguese."
CONTEXT, HIDDEN = 16384, 64


def make_model(folder: Path) -> None:
    """A Llama of one layer that adds nothing to its input: the last token alone decides the next one."""
    import torch
    from tokenizers import AddedToken
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from afina.tokenizer.train import train_tokenizer

    readme = Path(__file__).resolve().parent.parent / "README.md"
    train_tokenizer("byte-bpe", readme.read_text(encoding="utf-8").splitlines(), 2000, folder, CONTEXT)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(line, normalized=False) for line in dict.fromkeys(ANSWER)])
    tokenizer.save_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], add_generation_prompt=True, return_dict=False
    )
    # The closing fence is no second visit to the opening one: it holds no line break, so the chain is a line.
    chain = [asked[-1], *(tokenizer.convert_tokens_to_ids(line) for line in ANSWER), tokenizer.eos_token_id]
    assert len(set(chain)) == len(chain)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=HIDDEN,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    layer = model.model.layers[0]
    with torch.no_grad():
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight, model.lm_head.weight):
            weight.zero_()
        for place, (token, following) in enumerate(itertools.pairwise(chain)):
            direction = torch.eye(HIDDEN)[place]
            model.model.embed_tokens.weight[token] = direction
            model.lm_head.weight[following] = 10 * direction
    model.save_pretrained(folder)


def run(*words: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def write_settings(text: str, folder: Path) -> dict[str, str]:
    """Put what `--config aider` printed where it says; returns the variables that it exports."""
    for name in (".aider.model.settings.yml", ".aider.model.metadata.json"):
        part = text.split(f"# {name}\n")[1].split("\n\n")[0]
        (folder / name).write_text(part, encoding="utf-8")
    return dict(re.findall(r"^export (\w+)=(\S+)", text, re.M))


def ask_plainly(server: Server, project: Path, variables: dict[str, str]) -> None:
    """Our own part: the address, the model's name and its limits stand in the settings, and lead to the answer."""
    ((model, known),) = json.loads((project / ".aider.model.metadata.json").read_text(encoding="utf-8")).items()
    port = urlsplit(variables["OPENAI_API_BASE"]).port
    told = replace(server, port=port or 0, model=model.removeprefix("openai/"))
    got = asyncio.run(told.ask(ASKED, known["max_output_tokens"]))
    if got.text.strip() != "".join(ANSWER).strip() or not got.whole:
        sys.exit(f"asked by the settings, the server answered {got}")
    print(f"asked by the settings, {model} gives its one answer, {got.tokens} tokens")


def edit_by_aider(aider: str, project: Path, home: Path, port: int, variables: dict[str, str]) -> None:
    """Aider edits the file and commits; what it said, and what the server counted."""
    options = ["--map-tokens", "0", "--model", "openai/tiny", "--message", ASKED, "--yes-always", "--no-check-update"]
    options += ["--analytics-disable", "--no-show-release-notes", "--no-pretty", "hello.py"]
    variables = variables | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(home)}
    for who in ("AUTHOR", "COMMITTER"):
        variables |= {f"GIT_{who}_NAME": "bench", f"GIT_{who}_EMAIL": "bench@localhost"}
    done = run(aider, *options, folder=project, **variables)
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    counted = [line for line in lines if line.startswith("afina_requests_total")]
    print(done.stdout.strip(), done.stderr.strip(), *counted, sep="\n")
    edited = (project / "hello.py").read_text(encoding="utf-8") == AFTER
    print(f"aider ended with {done.returncode}; hello.py was {'edited as answered' if edited else 'not edited'}")
    if done.returncode or not edited:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aider", default=shutil.which("aider"), help="the program")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, port = Path(place), free_port()
        make_model(folder / "tiny")
        serve: list[object] = [sys.executable, "-m", "afina.cli", "serve", folder / "tiny", "--engine", "local"]
        project = folder / "project"
        project.mkdir()
        (project / "hello.py").write_text(BEFORE, encoding="utf-8")
        settings = run(*serve, "--port", port, "--config", "aider", folder=folder)
        if settings.returncode:
            sys.exit(settings.stderr)
        variables = write_settings(settings.stdout, project)
        for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "before")):
            run("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", *words, folder=project)
        with serving("afina", serve, port, "tiny", folder / "server.log") as server:
            ask_plainly(server, project, variables)
            if arguments.aider:
                edit_by_aider(arguments.aider, project, folder, port, variables)
            else:
                print("left out: aider is not installed here; name it with --aider")


if __name__ == "__main__":
    main()
