"""What somebody may give as a base, told apart by its files alone, and what each kind is good for. No torch.

:data:`KINDS` is the one table: plan, training, serving, export and audit ask it, so that none of them takes
what another one refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from afina.model.shape_table import RECURRENT
from afina.run import parse_json

AdapterKind = Literal["lora", "qlora", "none"]
Program = Literal["transformers", "vllm", "mlx"]
"""What opens a model: transformers stands for afina's own server, for training and for evaluation."""

UNQUANTIZED = "name the unquantized model that it was made of; `adapter.kind: qlora` loads that one in 4 bits"
A_MODEL = "name a model that writes text (its config.json says ...ForCausalLM), such as Qwen/Qwen3-8B"


@dataclass(frozen=True, slots=True)
class BaseKind:
    """One kind of thing, and what can be done with it."""

    name: str
    what: str
    """Said after its path: "is ..."."""
    instead: str = A_MODEL
    trains: tuple[AdapterKind, ...] = ()
    """Values of ``adapter.kind`` that train over it."""
    opens: tuple[Program, ...] = ()
    """Programs that answer with it."""


_EVERY: tuple[Program, ...] = ("transformers", "vllm", "mlx")

KINDS: Mapping[str, BaseKind] = {
    kind.name: kind
    for kind in (
        BaseKind("causal", "is a model that writes text", "", ("lora", "qlora", "none"), _EVERY),
        BaseKind(
            "sees",
            "reads images or sound beside text ({detail}); it is trained on text, and the rest is kept as it is",
            "",
            ("lora", "qlora", "none"),
            _EVERY[:2],
        ),
        BaseKind("bnb-4bit", "holds weights quantized to 4 bits by bitsandbytes", UNQUANTIZED, ("qlora",), _EVERY[:2]),
        BaseKind("bnb-8bit", "holds weights quantized to 8 bits by bitsandbytes", UNQUANTIZED, (), _EVERY[:2]),
        BaseKind(
            "rounded",
            "holds weights in {detail}; they are opened as the 16-bit numbers that those bits stand for",
            "`adapter.kind: lora` trains over those; or name the unquantized model",
            ("lora", "none"),
            _EVERY[:2],
        ),
        BaseKind(
            "recurrent",
            "is a recurrent model (LSTM or GRU) of afina",
            "only train.method scratch trains one; name a Transformer",
            (),
            _EVERY[:1],
        ),
        BaseKind(
            "mlx",
            "holds weights quantized by MLX",
            f"`backend: mlx` trains over it; or {UNQUANTIZED}",
            ("qlora",),
            ("mlx",),
        ),
        BaseKind("quantized", "holds weights quantized by {detail}", UNQUANTIZED, (), ("vllm",)),
        BaseKind(
            "adapter",
            "is an adapter, not a base",
            "name the base that it was trained on{detail}; `afina serve BASE --adapter NAME=FOLDER` answers with both",
        ),
        BaseKind(
            "adapter-beside-model",
            "holds a model and an adapter_config.json, by which transformers would open another base instead",
            "keep them in two folders",
        ),
        BaseKind("run", "is a run of afina, not a base", "{detail}"),
        BaseKind("dataset", "is a dataset, not a base", "write it under `sources`; " + A_MODEL),
        BaseKind(
            "gguf",
            "is GGUF, of which one file has to be named",
            "name the path of the file; of a model on the hub download it first: hf download ID FILE.gguf",
        ),
        BaseKind(
            "pickle",
            "holds its weights as a pickle ({detail}), which can run code when it is opened",
            "only safetensors are opened: convert it once where you trust it, with save_pretrained()",
        ),
        BaseKind("file", "is one file ({detail})", "name the folder of a Hugging Face model"),
        BaseKind("diffusion", "is a diffusion pipeline, which makes images"),
        BaseKind("sentence-transformers", "is an embedding model (sentence-transformers): it writes no text"),
        BaseKind("headless", "has no output head ({detail}), as embedding models: it writes no text"),
        BaseKind("encoder", "is an encoder ({detail}): it reads text and writes none"),
        BaseKind("classifier", "is a classifier or reward model ({detail}): it writes no text"),
        BaseKind("encoder-decoder", "is an encoder-decoder ({detail}), which is trained otherwise"),
        BaseKind("speech", "is a model of speech ({detail})"),
        BaseKind("image", "is a model of images ({detail})"),
        BaseKind(
            "multimodal",
            "reads images or sound beside text ({detail})",
            "name its text-only sibling, or a family that is trained on its text here: {families}",
        ),
        BaseKind("no-model", "has no config.json (it holds: {detail})", "name the folder of a Hugging Face model"),
    )
}

_SPEECH = frozenset({"whisper", "wav2vec2", "hubert", "wavlm", "speecht5", "seamless_m4t", "bark", "vits", "musicgen"})
_IMAGE = frozenset(
    {"vit", "clip", "siglip", "dinov2", "dinov3_vit", "swin", "convnext", "resnet", "detr", "sam", "beit"}
)
_ENCODERS = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "albert", "electra", "deberta", "deberta-v2", "mpnet"}
    | {"modernbert", "nomic_bert", "new", "esm", "longformer", "big_bird", "funnel", "rembert", "xlm", "eurobert"}
)
TRAINED_ON_TEXT = (
    *("aya_vision", "cohere2_vision", "gemma3", "gemma4", "glm4v", "glm4v_moe", "idefics3", "internvl", "lfm2_vl"),
    *("llama4", "llava", "llava_next", "llava_onevision", "mistral3", "mllama", "qwen2_5_vl", "qwen2_vl"),
    *("qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe", "smolvlm"),
)
"""Values of ``model_type`` that read images beside text, and whose text model is trained, exported and opened again by
their full class; ``tests/test_eyes.py`` does so with each."""
ROUNDED = {"fp8": "FP8", "mxfp4": "MXFP4"}
"""Methods of quantization that transformers undoes by itself on any machine: as ``quant_method``, and in words."""
_MULTIMODAL_KEYS = (
    *("vision_config", "audio_config", "vision_tower", "mm_vision_tower", "vit_config", "vq_config", "thinker_config"),
)
GGUF_ENDING = ".gguf"
_OF_RUNS = ("stages.json", "adapter", "model")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_METHODS = {"gptq": "GPTQ", "awq": "AWQ", "fbgemm_fp8": "FP8 (FBGEMM)", "compressed-tensors": "compressed-tensors"}


def kind_of(place: Path) -> BaseKind:
    """The kind of a folder or a file, with this one's details in its words.

    A folder whose ``config.json`` cannot be read counts as a causal model here: what is damaged is
    :mod:`afina.model.base_damage`'s to say.
    """
    name, detail = _tell(place)
    return _worded(name, detail)


def _worded(name: str, detail: str) -> BaseKind:
    kind, families = KINDS[name], ", ".join(TRAINED_ON_TEXT)
    what, instead = (text.format(detail=detail, families=families) for text in (kind.what, kind.instead))
    return replace(kind, what=what, instead=instead)


def read_object(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no such file or it is no object."""
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def kind_of_config(config: Mapping[str, Any]) -> BaseKind:
    """The kind by ``config.json`` alone.

    >>> kind_of_config({"model_type": "llama", "quantization_config": {"quant_method": "awq"}}).what
    'holds weights quantized by AWQ'
    """
    return _worded(*_by_config(config))


def _tell(place: Path) -> tuple[str, str]:
    if place.is_file():
        return _file(place)
    config = read_object(place / "config.json")
    if (place / "recipe.yaml").is_file() and any((place / part).exists() for part in _OF_RUNS):
        return "run", _instead_of_run(place)
    if (place / "adapter_config.json").is_file():
        if (place / "config.json").exists():
            return "adapter-beside-model", ""
        base = (read_object(place / "adapter_config.json") or {}).get("base_model_name_or_path")
        return "adapter", f": {base}" if base else ""
    if (place / "model_index.json").is_file():
        return "diffusion", ""
    if (place / "modules.json").is_file() or (place / "config_sentence_transformers.json").is_file():
        return "sentence-transformers", ""
    if not (place / "config.json").exists():
        return _without_config(place)
    if config is None:
        return "causal", ""
    name, detail = _by_config(config)
    if name in ("causal", "sees") and not any(place.glob("*.safetensors")):
        if any(place.glob("*" + GGUF_ENDING)):
            return "gguf", ""
        if pickles := list(_pickles(place)):
            return "pickle", ", ".join(pickles[:3])
    return name, detail


def _file(place: Path) -> tuple[str, str]:
    with place.open("rb") as opened:
        begins = opened.read(4)
    if begins == b"GGUF" or place.suffix.lower() == GGUF_ENDING:
        return "gguf", ""
    return "file", place.name


def _without_config(place: Path) -> tuple[str, str]:
    if any(place.glob("*" + GGUF_ENDING)):
        return "gguf", ""
    if (place / "dataset.json").is_file() and (place / "train.jsonl").is_file():
        return "dataset", ""
    return "no-model", ", ".join(sorted(file.name for file in place.iterdir())[:12]) or "nothing"


def _pickles(place: Path) -> Iterator[str]:
    for file in sorted(place.iterdir()):
        if file.suffix in _PICKLES and file.name != "training_args.bin":
            yield file.name


def _instead_of_run(run: Path) -> str:
    if (run / "model").is_dir():
        return f"name the model that it trained: {run / 'model'}"
    return f"`afina export {run} --to merged --out FOLDER`, and name that folder"


def reads_images(config: Mapping[str, Any]) -> bool:
    """Whether this is a model of :data:`TRAINED_ON_TEXT` with its eyes, however its weights are held.

    >>> reads_images({"model_type": "gemma3", "vision_config": {}}), reads_images({"model_type": "gemma3_text"})
    (True, False)
    """
    return _by_architecture(config)[0] == "sees"


def _by_config(config: Mapping[str, Any]) -> tuple[str, str]:
    what = _by_architecture(config)
    quantized = _quantization(config) if KINDS[what[0]].opens else None
    return quantized or what


def _by_architecture(config: Mapping[str, Any]) -> tuple[str, str]:
    kind = str(config.get("model_type", ""))
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    said = architecture or kind
    if kind == RECURRENT:
        return "recurrent", said
    if kind in _SPEECH or architecture.endswith(("ForCTC", "ForSpeechSeq2Seq")):
        return "speech", said
    if kind in _IMAGE:
        return "image", said
    if kind in _ENCODERS or architecture.endswith("ForMaskedLM"):
        return "encoder", said
    if kind == "fuyu" or any(config.get(key) is not None for key in _MULTIMODAL_KEYS):
        return "sees" if kind in TRAINED_ON_TEXT else "multimodal", said
    if config.get("is_encoder_decoder"):
        return "encoder-decoder", said
    if architecture.endswith(("ForSequenceClassification", "ForTokenClassification", "ForRewardModel", "RewardModel")):
        return "classifier", said
    if architecture.endswith("Model") and not architecture.endswith("LMHeadModel"):
        return "headless", said
    return "causal", said


def _quantization(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """None where the weights are whole."""
    settings = config.get("quantization_config") or config.get("quantization")
    if not settings:
        return None
    if not isinstance(settings, Mapping):
        return "quantized", "a method that config.json does not name"
    method = str(settings.get("quant_method", "")).lower()
    four, eight = (settings.get(f"load_in_{bits}bit") or settings.get(f"_load_in_{bits}bit") for bits in (4, 8))
    if method in ("", "bitsandbytes") and four:
        return "bnb-4bit", ""
    if method in ("", "bitsandbytes") and eight:
        return "bnb-8bit", ""
    if not method and "group_size" in settings and "bits" in settings:
        return "mlx", ""
    if method in ROUNDED:
        return "rounded", ROUNDED[method]
    return "quantized", _METHODS.get(method, method or "a method that config.json does not name")
