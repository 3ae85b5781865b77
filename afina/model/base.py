"""What a base is, proven by hashes, and the checks before anything of it is opened.

Only safetensors are opened: a pickle can run code. Code that comes with a model never runs
unless the recipe names it (``trust_remote_code: true``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from afina.errors import BaseError, RecipeError
from afina.run import hash_file, hash_folder, hash_value

IDENTITY_FILE = "afina.json"


@dataclass(frozen=True)
class BaseIdentity:
    """Hashes that say which base this is. A path alone proves nothing."""

    name: str
    weights_sha256: str
    tokenizer_sha256: str
    chat_template_sha256: str

    def as_json(self) -> dict[str, str]:
        return asdict(self)

    def differences(self, other: BaseIdentity) -> list[str]:
        """Which parts differ (the name does not count)."""
        return [
            part
            for part in ("weights", "tokenizer", "chat_template")
            if getattr(self, f"{part}_sha256") != getattr(other, f"{part}_sha256")
        ]


def find_base(base: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """The folder of a base: itself, or the hub's snapshot (downloaded when needed), checked.

    Raises:
        BaseError: it does not exist, holds no safetensors, or wants its own code to run.
    """
    folder = Path(base)
    if not folder.is_dir():
        if folder.is_absolute():
            raise BaseError("there is no such folder", "name a folder with a model, or a hub id", base)
        folder = _from_hub(base, revision)
    config = folder / "config.json"
    if (folder / "adapter_config.json").exists() and not config.exists():
        raise BaseError("is an adapter, not a base", "name the base that it was trained on", base)
    if not config.exists():
        names = ", ".join(sorted(file.name for file in folder.iterdir())[:12]) or "nothing"
        raise BaseError(f"holds no config.json (it holds: {names})", "name the folder of a Hugging Face model", base)
    if not list(folder.glob("*.safetensors")):
        pickles = [file.name for file in sorted(folder.iterdir()) if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickles:
            raise BaseError(
                f"holds its weights as a pickle ({', '.join(pickles[:3])}), which can run code when it is opened",
                "only safetensors are opened: convert it once where you trust it, with save_pretrained()",
                base,
            )
        raise BaseError("holds no weights (*.safetensors)", "copy the whole model folder", base)
    content = json.loads(config.read_text(encoding="utf-8"))
    if "auto_map" in content and not trust_remote_code:
        raise BaseError(
            "wants to run code that comes with it (auto_map in config.json)",
            "read that code; if you trust it, write `trust_remote_code: true` into the recipe",
            base,
        )
    return folder


def check_length(folder: Path, max_length: int) -> None:
    """Refuse rows longer than the base has positions for: it would read them, and answer with noise.

    Raises:
        RecipeError: with both lengths.
    """
    positions = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    if positions is not None and max_length > positions:
        raise RecipeError(
            f"train.max_length is {max_length}, the base sees {positions} tokens at most",
            f"set train.max_length to {positions} or less",
            "train.max_length",
        )


def _from_hub(base: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BaseError(
            f"is neither a folder nor a model that the hub gives: {str(error).splitlines()[0]}",
            "check the name; for a model in a folder write its path (./models/x); offline, download it first",
            base,
        ) from error


def identify_base(folder: Path, name: str, tokenizer: Any) -> BaseIdentity:
    """Hash a base's weights, its tokenizer and the chat template in use."""
    tokenizer_files = [file for file in ("tokenizer.json", "tokenizer.model", "vocab.json") if (folder / file).exists()]
    return BaseIdentity(
        name=name,
        weights_sha256=hash_folder(folder, "*.safetensors"),
        tokenizer_sha256=hash_value([hash_file(folder / file) for file in tokenizer_files]),
        chat_template_sha256=hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest(),
    )


def hash_model(folder: Path) -> dict[str, str]:
    """Hashes of everything in a model's folder that its answers depend on."""
    patterns = {"weights": "*.safetensors", "tokenizer": "tokenizer*", "template": "*.jinja", "config": "config.json"}
    return {name: hash_folder(folder, pattern) for name, pattern in patterns.items()}


def hash_tokenizer(folder: Path) -> dict[str, str]:
    """Hashes of the files in a model's folder that decide how a text becomes tokens, by name."""
    patterns = ["tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*"]
    patterns += ["*.jinja", "*.model", "*.tiktoken", "*.py", "config.json"]
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return {file.name: hash_file(file) for file in sorted(files)}


def read_identity(adapter: Path) -> BaseIdentity | None:
    """The base that an adapter was trained on, or None for an adapter that afina did not write."""
    file = adapter / IDENTITY_FILE
    if not file.exists():
        return None
    return BaseIdentity(**json.loads(file.read_text(encoding="utf-8"))["base"])


def check_adapter_fits(adapter: Path, base: BaseIdentity) -> str | None:
    """Refuse an adapter that was trained on another base; returns a warning when that cannot be known.

    Raises:
        BaseError: weights, tokenizer or chat template are not those it was trained on.
    """
    trained_on = read_identity(adapter)
    if trained_on is None:
        return f"{adapter} does not say which base it was trained on: its fit cannot be checked"
    different = trained_on.differences(base)
    if different:
        raise BaseError(
            f"this adapter was trained on {trained_on.name}, whose {' and '.join(different)} differ from {base.name}",
            "open it on the base it was trained on",
            str(adapter),
        )
    return None
