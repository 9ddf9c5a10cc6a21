#!/usr/bin/env python3
"""Golden logits of small random models that see, by HF transformers: Gemma 3 and Qwen3-VL.

    python tests/golden/make_vlm.py models/projector/golden

Needs torch, torchvision and transformers 5 (made with torch 2.9.1 and transformers 5.23.0, on the CPU in float32), safetensors and
numpy. Writes cases.json (config.json, tensors, pictures and prompts of each model) and golden.safetensors (logits at each position of
the prompt, and pictures as the preprocessors scale them). Weights and pictures are not stored: tests make them from the rules of
make_decoder.py. The pictures of a prompt need no scaling, so that the logits tell of the network alone; how pictures are scaled has
goldens of its own.
"""

import json
import math
import pathlib
import sys
import tempfile

import numpy as np
import torch
from make_decoder import noise
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.gemma3.image_processing_gemma3 import Gemma3ImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

torch.cuda.is_current_stream_capturing = lambda: False  # lets a build for CUDA run where there is none

TEXT = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
ROW = 60  # the token that a picture's rows take the place of
GREEDY = 8

GEMMA = dict(
    model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"], image_token_id=ROW, image_token_index=ROW,
    boi_token_index=61, eoi_token_index=62, mm_tokens_per_image=16, tie_word_embeddings=True, dtype="float32",
    text_config=dict(
        **TEXT, model_type="gemma3_text", num_hidden_layers=3, hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=16,
        sliding_window=8, rope_theta=1e6, rope_local_base_freq=1e4, sliding_window_pattern=2,
    ),
    vision_config=dict(
        model_type="siglip_vision_model", hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        image_size=48, patch_size=6, layer_norm_eps=1e-6, vision_use_head=False,
    ),
)  # fmt: skip
QWEN = dict(
    model_type="qwen3_vl", architectures=["Qwen3VLForConditionalGeneration"], image_token_id=ROW, video_token_id=63,
    vision_start_token_id=61, vision_end_token_id=62, tie_word_embeddings=True, dtype="float32",
    text_config=dict(
        **TEXT, model_type="qwen3_vl_text", num_hidden_layers=4, hidden_act="silu", rope_theta=1e4,
        rope_scaling=dict(rope_type="default", mrope_section=[4, 2, 2], mrope_interleaved=True),
    ),
    vision_config=dict(
        model_type="qwen3_vl", depth=4, hidden_size=32, intermediate_size=40, num_heads=2, patch_size=8, spatial_merge_size=2,
        temporal_patch_size=2, out_hidden_size=32, num_position_embeddings=36, deepstack_visual_indexes=[0, 2],
        hidden_act="gelu_pytorch_tanh",
    ),
)  # fmt: skip

# name: (config, prompts; a prompt is a list of lengths of text and [height, width] of pictures)
CASES = {
    "gemma3": (GEMMA, [[5, [48, 48], 6], [3, [48, 48], 4, [48, 48], 12], [30]]),
    "qwen3vl": (QWEN, [[5, [64, 48], 6], [3, [32, 96], 4, [80, 80], 9], [[16, 16], 1, [48, 160], 2], [30]]),
}

# preprocessor, [height, width] before, and the most embeddings
SCALED = [
    ("gemma3", [100, 70], None), ("gemma3", [31, 200], None),
    ("qwen3vl", [100, 70], 200), ("qwen3vl", [31, 200], 200), ("qwen3vl", [20, 30], 200), ("qwen3vl", [300, 260], 40),
]  # fmt: skip


def picture(height, width, name):
    """(height, width, 3) bytes."""
    values = (noise(height * width * 3, name) + 1) * 128
    return values.astype(np.uint8).reshape(height, width, 3)


def rule(name, shape, gemma):
    """Scale and offset of a tensor: such that attention is neither uniform nor a choice of one, and each weight matters."""
    if len(shape) == 1:
        plus_one = gemma and (name.startswith("language_model") or ".language_model." in name or "soft_emb_norm" in name)
        is_norm = name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) and not plus_one
        return 0.25, 1.0 if is_norm else 0.0
    if "embed_tokens" in name:
        return 0.25 if gemma else 1.0, 0.0
    if "position_embedding" in name or "pos_embed" in name:
        return 0.5, 0.0
    fan = shape[0] if "mm_input_projection" in name else math.prod(shape[1:])
    return 2.0 ** round(math.log2(2.6 / math.sqrt(fan))), 0.0


def qwen_pixels(pictures, vision):
    p, merge = vision["patch_size"], vision["spatial_merge_size"]
    size = dict(shortest_edge=1, longest_edge=1 << 24)
    processor = Qwen2VLImageProcessor(
        patch_size=p, merge_size=merge, size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    out = processor([torch.tensor(a).permute(2, 0, 1) for a in pictures], return_tensors="pt")
    return out["pixel_values"], out["image_grid_thw"]


def gemma_pixels(pictures, side):
    processor = Gemma3ImageProcessor(size=dict(height=side, width=side), do_pan_and_scan=False)
    return processor([torch.tensor(a).permute(2, 0, 1) for a in pictures], return_tensors="pt")["pixel_values"]


def model_of(conf):
    gemma = conf["model_type"] == "gemma3"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as saved:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(conf))
        AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(saved)
        shapes = {n: list(t.shape) for n, t in load_file(f"{saved}/model.safetensors").items()}
        rules = {n: [s, *rule(n, s, gemma)] for n, s in sorted(shapes.items())}
        tensors = {}
        for tensor, (shape, scale, offset) in rules.items():
            values = np.float32(offset) + np.float32(scale) * noise(math.prod(shape), tensor)
            tensors[tensor] = values.astype(np.float32).reshape(shape)
        save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
        model, info = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval(), rules


def run(conf, model, prompt, number):
    """Tokens of a prompt, its pictures, and the logits and greedy continuation after it."""
    gemma, vision = conf["model_type"] == "gemma3", conf["vision_config"]
    cell = vision["patch_size"] * (2 if not gemma else 12)
    tokens, kinds, pictures, parts = [], [], [], []
    for i, part in enumerate(prompt):
        if isinstance(part, int):
            text = [3 + int((v + 1) / 2 * 57) for v in noise(part, f"text {number} {i}")]
            tokens, kinds = tokens + text, kinds + [0] * part
            continue
        rows = 16 if gemma else (part[0] // cell) * (part[1] // cell)
        name = f"picture {number} {i}"
        parts.append(dict(at=len(tokens), size=part, name=name))
        pictures.append(picture(*part, name))
        tokens, kinds = tokens + [ROW] * rows, kinds + [1] * rows
    inputs = dict(input_ids=torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens), dtype=torch.long))
    if pictures and gemma:
        inputs |= dict(pixel_values=gemma_pixels(pictures, vision["image_size"]), token_type_ids=torch.tensor([kinds]))
    elif pictures:
        pixels, grid = qwen_pixels(pictures, vision)
        inputs |= dict(pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=torch.tensor([kinds]))
    with torch.no_grad():
        if not gemma:
            model.model.rope_deltas = None
        logits = model(**inputs).logits[0].numpy().astype(np.float32)
        if not gemma:
            model.model.rope_deltas = None
        model.generation_config.eos_token_id = None  # the end mark is a token like others here
        greedy = model.generate(**inputs, max_new_tokens=GREEDY, do_sample=False)[0, len(tokens) :].tolist()
    return dict(tokens=tokens, pictures=parts, greedy=greedy), logits


def scaled(kind, size, most):
    """A picture as the tower takes it."""
    pixels = picture(*size, f"scaled {kind} {size}")
    if kind == "gemma3":
        return gemma_pixels([pixels], 48)[0]
    processor = Qwen2VLImageProcessor(
        patch_size=8, merge_size=2, size=dict(shortest_edge=16 * 256, longest_edge=most * 256),
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    return processor([torch.tensor(pixels).permute(2, 0, 1)], return_tensors="pt")["pixel_values"]


def main(out):
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    cases, arrays = {}, {}
    for name, (conf, prompts) in CASES.items():
        model, rules = model_of(conf)
        ran = []
        for i, prompt in enumerate(prompts):
            case, arrays[f"{name}.{i}"] = run(conf, model, prompt, i)
            ran.append(case)
            print(f"{name} {i}: {len(case['tokens'])} tokens, logits to {abs(arrays[f'{name}.{i}']).max():.2f}, then {case['greedy']}")
        cases[name] = dict(config=conf, tensors=rules, prompts=ran)
    sizes = []
    for kind, size, most in SCALED:
        values = np.ascontiguousarray(scaled(kind, size, most).numpy().astype(np.float32))
        arrays[f"scaled.{len(sizes)}"] = np.round((values * 0.5 + 0.5) * 255).astype(np.uint8)
        sizes.append(dict(kind=kind, size=size, most=most, shape=list(values.shape)))
        print(kind, size, most, values.shape)
    cases["scaled"] = sizes
    (out / "cases.json").write_text(json.dumps(cases) + "\n")
    save_file(arrays, out / "golden.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
