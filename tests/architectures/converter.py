"""Which architectures llama.cpp's converter takes: the model types of the families here whose class it registers.

Read from ``conversion/`` of the llama.cpp that comes with llama-cpp-python 0.3.36.
"""

CONVERTED = frozenset(
    {
        *("afmoe", "apertus", "arcee", "bamba", "bitnet", "bloom", "cohere", "cohere2", "deepseek_v2", "deepseek_v3"),
        *("dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "falcon", "falcon_h1", "falcon_mamba", "gemma", "gemma2"),
        *("gemma3_text", "gemma3n_text", "gemma4_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "gpt2"),
        *("gpt_bigcode", "gpt_neox", "gpt_oss", "granite", "granitemoe", "granitemoehybrid", "granitemoeshared"),
        *("hunyuan_v1_dense", "hunyuan_v1_moe", "jamba", "lfm2", "lfm2_moe", "llama", "llama4_text", "mamba"),
        *("mamba2", "minicpm3", "minimax_m2", "ministral3", "mistral", "mixtral", "nemotron", "nemotron_h", "olmo"),
        *("olmo2", "olmo3", "olmoe", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_5_moe_text"),
        *("qwen3_5_text", "qwen3_moe", "qwen3_next", "seed_oss", "smollm3", "stablelm", "starcoder2", "youtu"),
    }
)
