#!/usr/bin/env python3
"""Golden logits of small random decoders by HF transformers, one for each family and each rotary scaling.

    python tests/golden/make_decoder.py models/decoder/golden

Needs torch and transformers 5 (made with torch 2.9.1 and transformers 5.23.0, on the CPU in float32), safetensors and numpy.
Writes cases.json (config.json, tensors and prompt of each model) and logits.safetensors (logits at each position of the
prompt). Weights are not stored: the value of element i of a tensor is offset + scale * noise(name)[i], and the test makes them by
the same rule. A config is written as model hubs have it, some in the form of transformers 4 (rope_scaling, rope_theta), some in
that of version 5 (rope_parameters), is read by transformers itself, and so are the weights.
"""

import json
import math
import pathlib
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

torch.cuda.is_current_stream_capturing = lambda: False  # lets a build for CUDA run where there is none

PROMPT = 40  # longer than each window and each trained context below
BASE = dict(
    vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=False,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def config(kind, **changes):
    return {**BASE, "model_type": kind, "architectures": [ARCHITECTURES[kind]], **changes}


ARCHITECTURES = dict(
    llama="LlamaForCausalLM", mistral="MistralForCausalLM", qwen2="Qwen2ForCausalLM", qwen3="Qwen3ForCausalLM",
    qwen3_moe="Qwen3MoeForCausalLM", gemma3_text="Gemma3ForCausalLM", phi3="Phi3ForCausalLM",
)  # fmt: skip

LONG = dict(
    hidden_size=64, original_max_position_embeddings=16, rope_theta=10000.0, partial_rotary_factor=0.75,
    rope_scaling=dict(type="longrope", short_factor=[1.0, 1.05, 1.1, 1.2, 1.3, 1.4], long_factor=[1.0, 1.5, 2.5, 3.5, 4.5, 6.0]),
)  # fmt: skip
MOE = dict(head_dim=16, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24, decoder_sparse_step=1)
GEMMA = dict(
    num_hidden_layers=3, head_dim=16, hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=16, sliding_window=8,
    tie_word_embeddings=True,
)  # fmt: skip

# name: (config, tokens of the prompt)
CASES = {
    "llama": (config("llama", rope_theta=500000.0), PROMPT),
    "llama-biases": (config("llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True), PROMPT),
    "llama-linear": (config("llama", rope_scaling=dict(type="linear", factor=4.0)), PROMPT),
    "llama-llama3": (
        config(
            "llama",
            num_hidden_layers=3,
            head_dim=16,
            rope_theta=500000.0,
            rope_scaling=dict(
                rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
            ),
        ),
        PROMPT,
    ),
    "llama-yarn": (
        config(
            "llama",
            head_dim=16,
            rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16),
        ),
        PROMPT,
    ),
    "mistral": (config("mistral", sliding_window=8, num_hidden_layers=3), PROMPT),
    "mistral-yarn": (
        config(
            "mistral",
            sliding_window=None,
            head_dim=16,
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=1000.0,
                factor=4.0,
                original_max_position_embeddings=16,
                attention_factor=0.8,
                beta_fast=4.0,
                beta_slow=0.5,
            ),
        ),
        PROMPT,
    ),
    "qwen2": (config("qwen2", rope_theta=1e6, use_sliding_window=False, sliding_window=8), PROMPT),
    "qwen2-window": (
        config(
            "qwen2",
            num_hidden_layers=3,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=10000.0,
                factor=4.0,
                original_max_position_embeddings=16,
                mscale=1.0,
                mscale_all_dim=0.5,
                truncate=False,
            ),
        ),
        PROMPT,
    ),
    "qwen3": (config("qwen3", head_dim=16, rope_parameters=dict(rope_type="default", rope_theta=1e6)), PROMPT),
    "qwen3-yarn": (
        config(
            "qwen3",
            head_dim=16,
            rope_theta=1e4,
            rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16),
        ),
        PROMPT,
    ),
    "qwen3moe": (config("qwen3_moe", rope_theta=1e6, norm_topk_prob=True, **MOE), PROMPT),
    "qwen3moe-mixed": (
        config("qwen3_moe", **{**MOE, "num_hidden_layers": 4, "norm_topk_prob": False, "mlp_only_layers": [1], "decoder_sparse_step": 2}),
        PROMPT,
    ),
    "gemma3": (config("gemma3_text", rope_theta=1e6, rope_local_base_freq=1e4, sliding_window_pattern=2, **GEMMA), PROMPT),
    "gemma3-linear": (
        config(
            "gemma3_text",
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            final_logit_softcapping=20.0,
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e4),
                sliding_attention=dict(rope_type="default", rope_theta=100.0),
            ),
            **GEMMA,
        ),
        PROMPT,
    ),
    "phi3": (config("phi3", sliding_window=8, num_hidden_layers=3, rope_theta=10000.0), PROMPT),
    "phi3-short": (config("phi3", **LONG), 16),
    "phi3-long": (config("phi3", **LONG), PROMPT),
}  # fmt: skip


def noise(n, seed):
    """n repeatable multiples of 2^-23 in -1..1."""
    state = 0x9E3779B9
    for byte in seed.encode():
        state = ((state ^ byte) * 0x01000193) & 0xFFFFFFFF
    out = np.empty(n, np.float32)
    for i in range(n):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        out[i] = (state >> 8) / (1 << 23) - 1.0
    return out


def rule(name, shape, gemma):
    """Scale and offset of a tensor: such that attention is neither uniform nor a choice of one, and each weight matters."""
    if len(shape) == 1:
        return 0.25, 0.0 if gemma or not name.endswith("norm.weight") else 1.0
    if "embed_tokens" in name:
        return 1.0, 0.0
    return 2.0 ** round(math.log2(2.6 / math.sqrt(shape[-1]))), 0.0


def margins(model, ids, used):
    """The smallest distance, over layers and positions, between the last expert chosen and the first not chosen."""
    seen = []
    hooks = [m.register_forward_hook(lambda _m, _i, out: seen.append(out[0])) for n, m in model.named_modules() if n.endswith("mlp.gate")]
    model(input_ids=ids)
    [h.remove() for h in hooks]
    ranked = [logits.sort(dim=-1, descending=True).values for logits in seen]
    return min(float((r[:, used - 1] - r[:, used]).min()) for r in ranked)


def main(out):
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    cases, logits = {}, {}
    for name, (conf, length) in CASES.items():
        gemma = conf["model_type"].startswith("gemma")
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as saved:
            # 1. names and shapes as transformers saves them
            (pathlib.Path(folder) / "config.json").write_text(json.dumps(conf))
            AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(saved)
            shapes = {n: list(t.shape) for n, t in load_file(f"{saved}/model.safetensors").items()}
            rules = {n: [s, *rule(n, s, gemma)] for n, s in sorted(shapes.items())}
            # 2. our weights, read by transformers
            tensors = {}
            for tensor, (shape, scale, offset) in rules.items():
                values = np.float32(offset) + np.float32(scale) * noise(math.prod(shape), tensor)
                tensors[tensor] = values.astype(np.float32).reshape(shape)
            save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
            )
            assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        prompt = [int((v + 1) / 2 * conf["vocab_size"]) for v in noise(length, "prompt")]
        ids = torch.tensor([prompt])
        with torch.no_grad():
            if "num_experts" in conf:
                margin = margins(model, ids, conf["num_experts_per_tok"])
                assert margin > 2e-3, f"{name}: another choice of experts is only {margin} away; change the seed"
            result = model.eval()(input_ids=ids).logits[0]
        logits[name] = result.numpy().astype(np.float32)
        cases[name] = dict(config=conf, prompt=prompt, tensors=rules)
        print(f"{name:16} {sum(math.prod(s) for s in shapes.values()):7} weights, logits to {float(result.abs().max()):.2f}")
    text = ",\n".join(
        f'"{name}": {{"config": {json.dumps(case["config"])},\n"prompt": {json.dumps(case["prompt"])},\n"tensors": {json.dumps(case["tensors"])}}}'
        for name, case in cases.items()
    )
    (out / "cases.json").write_text("{" + text + "}\n")
    save_file(logits, out / "logits.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
