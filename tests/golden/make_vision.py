#!/usr/bin/env python3
"""Golden outputs of small random vision transformers and of the processors of pictures, by HF transformers.

    python tests/golden/make_vision.py models/vision/golden

Needs torch, torchvision and transformers 5 (made with transformers 5.23.0, on the CPU in float32), Pillow, scipy, safetensors and
numpy. Writes cases.json (config.json and tensors of each model) and outputs.safetensors. Weights, pixels and pictures are not
stored: the value of element i of a tensor is offset + scale * noise(name)[i], and the test makes them by the same rule.
"""

import json
import math
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers as T
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

from make_decoder import noise

torch.cuda.is_current_stream_capturing = lambda: False  # lets a build for CUDA run where there is none

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
TEXT = dict(SMALL, vocab_size=60, intermediate_size=48, max_position_embeddings=8, projection_size=32)
BACKBONE = dict(
    SMALL, model_type="vitpose_backbone", image_size=[64, 48], patch_size=[16, 16], num_channels=3, mlp_ratio=2, out_features=["stage2"],
    num_experts=1,
)  # fmt: skip
LABELS = {"id2label": {str(i): str(i) for i in range(5)}, "label2id": {str(i): i for i in range(5)}}

# name: (class, config)
MODELS = {
    "siglip2": (
        T.Siglip2Model,
        dict(model_type="siglip2", text_config=TEXT, vision_config=dict(SMALL, intermediate_size=48, num_patches=16, patch_size=4)),
    ),
    "siglip": (
        T.SiglipModel,
        dict(model_type="siglip", text_config=TEXT, vision_config=dict(SMALL, intermediate_size=48, image_size=32, patch_size=8)),
    ),
    "dinov2": (T.Dinov2Model, dict(SMALL, model_type="dinov2", image_size=28, patch_size=7, mlp_ratio=2)),
    "dinov2-swiglu": (T.Dinov2Model, dict(SMALL, model_type="dinov2", image_size=28, patch_size=7, mlp_ratio=4, use_swiglu_ffn=True)),
    "dinov2-registers": (
        T.Dinov2WithRegistersModel,
        dict(SMALL, model_type="dinov2_with_registers", image_size=28, patch_size=7, mlp_ratio=2, num_register_tokens=3),
    ),
    "vitpose": (T.VitPoseForPoseEstimation, dict(LABELS, model_type="vitpose", backbone_config=BACKBONE, use_simple_decoder=True)),
    "vitpose-classic": (T.VitPoseForPoseEstimation, dict(LABELS, model_type="vitpose", backbone_config=BACKBONE, use_simple_decoder=False)),
    "vitpose-plus": (
        T.VitPoseForPoseEstimation,
        dict(LABELS, model_type="vitpose", backbone_config=dict(BACKBONE, num_experts=3, part_features=8), use_simple_decoder=True),
    ),
}  # fmt: skip


def rule(name, shape):
    """Scale and offset of a tensor: such that each weight matters and none drowns the others."""
    if name == "logit_scale":
        return 0.25, 2.0
    if len(shape) <= 1:
        positive = name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "lambda1", "running_var", "norm_before.weight"))
        positive = positive or name.endswith(("norm_after.weight", "batchnorm1.weight", "batchnorm2.weight"))
        return 0.25, 1.0 if positive else 0.0
    fan = math.prod(shape[1:])
    if "embedding.weight" in name or "position_embeddings" in name or name.endswith(("cls_token", "register_tokens", "probe")):
        return 1.0, 0.0
    return 2.0 ** round(math.log2(1.7 / math.sqrt(fan))), 0.0


def build(kind, conf):
    """A model with weights by rule, and the rules."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as saved:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(conf))
        kind(T.AutoConfig.from_pretrained(folder)).save_pretrained(saved)
        stored = load_file(f"{saved}/model.safetensors")
        rules, tensors = {}, {}
        for name, tensor in sorted(stored.items()):
            if tensor.dtype != np.float32:  # a counter
                tensors[name] = tensor
                continue
            shape = list(tensor.shape)
            scale, offset = rule(name, shape)
            rules[name] = [shape, scale, offset]
            values = np.float32(offset) + np.float32(scale) * noise(math.prod(shape), name)
            tensors[name] = values.astype(np.float32).reshape(shape)
        save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
        model, info = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval(), rules


def picture(height, width):
    return Image.fromarray(((noise(height * width * 3, "picture") + 1) * 127.99).astype(np.uint8).reshape(height, width, 3))


def pixels(*shape):
    return torch.tensor(noise(math.prod(shape), "pixels").reshape(shape))


def flexible(model, processor, size):
    """A picture through the processor and the tower."""
    inputs = processor(picture(*size), patch_size=4, max_num_patches=24, return_tensors="pt")
    out = model.get_image_features(**inputs)
    out = out if isinstance(out, torch.Tensor) else out.pooler_output
    return out[0], inputs["spatial_shapes"][0].float()


def body(model, out, name):
    """A person in a picture, from its box to the points."""
    processor = VitPoseImageProcessorPil(size={"height": 64, "width": 48})
    boxes = [[[9.5, 12.25, 30.0, 51.0]]]
    inputs = processor(picture(90, 70), boxes=boxes, return_tensors="pt")
    coco = {"dataset_index": torch.zeros(1, dtype=torch.int64)} if model.config.backbone_config.num_experts > 1 else {}
    result = model(**inputs, **coco)
    points = processor.post_process_pose_estimation(result, boxes=boxes)[0][0]
    out[f"{name}.pixels"] = inputs["pixel_values"].flatten()[::7]
    out[f"{name}.heatmaps"] = result.heatmaps[0]
    out[f"{name}.keypoints"] = points["keypoints"].float()
    out[f"{name}.scores"] = points["scores"].float()


@torch.no_grad()
def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    cases, out = {}, {}
    for name, (kind, conf) in MODELS.items():
        model, rules = build(kind, conf)
        cases[name] = dict(config=conf, tensors=rules)
        if name.startswith("siglip"):
            ids = torch.tensor([[int((v + 1) * 29.9) for v in noise(8, "ids")]])
            text = model.get_text_features(input_ids=ids)
            out[f"{name}.text"] = (text if isinstance(text, torch.Tensor) else text.pooler_output)[0]
        if name == "siglip2":
            for size in [(40, 25), (13, 90)]:
                embedding, grid = flexible(model, Siglip2ImageProcessorPil(), size)
                out[f"{name}.{size[0]}x{size[1]}"], out[f"{name}.{size[0]}x{size[1]}.grid"] = embedding, grid
        elif name == "siglip":
            for side in (32, 48):
                result = model.get_image_features(pixels(1, 3, side, side), interpolate_pos_encoding=side != 32)
                out[f"{name}.{side}"] = (result if isinstance(result, torch.Tensor) else result.pooler_output)[0]
        elif name.startswith("dinov2"):
            for h, w in [(28, 28), (21, 35), (49, 42)]:
                out[f"{name}.{h}x{w}"] = model(pixels(1, 3, h, w)).last_hidden_state[0]
        else:
            body(model, out, name)
        print(f"{name:18} {sum(math.prod(s[0]) for s in rules.values()):7} weights")
    for name, processor in {
        "bilinear": SiglipImageProcessorPil(size={"height": 24, "width": 20}, resample=2),
        "bicubic": SiglipImageProcessorPil(size={"height": 24, "width": 20}, resample=3),
        "enlarge": SiglipImageProcessorPil(size={"height": 44, "width": 56}, resample=3),
        "crop": BitImageProcessorPil(size={"shortest_edge": 23}, crop_size={"height": 16, "width": 16}),
    }.items():
        out[f"picture.{name}"] = processor(picture(37, 51), return_tensors="pt")["pixel_values"][0]
    text = ",\n".join(f'"{n}": {{"config": {json.dumps(c["config"])},\n"tensors": {json.dumps(c["tensors"])}}}' for n, c in cases.items())
    (folder / "cases.json").write_text("{" + text + "}\n")
    save_file({n: np.ascontiguousarray(t.numpy().astype(np.float32)) for n, t in out.items()}, folder / "outputs.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
