#!/usr/bin/env python3
"""Vision transformers beside torch: A B A B, medians, stored under benches/runs.

    cargo build --release
    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install torch transformers
    /tmp/peers/bin/python benches/peers/vision.py [--pairs 7] [--threads 2] [--only siglip2-base]

The models have the shapes of SigLIP 2 base (patches of 16, pictures of 224) and DINOv2 small (patches of 14), and random weights: the
time does not depend on them. Each engine runs in a process of its own, in f32, on the same picture and with as many threads; torch runs
HF transformers' model with its scaled dot product attention. A time is the median of a process's runs, from pixels to the picture's
vector; a ratio is that of two processes that ran one after the other. The largest difference of the vectors, in parts of the largest
value, is told too.
"""
import argparse, json, os, statistics, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import common
from common import spread

SIDE = 224
SHAPES = ["siglip2-base", "dinov2-small"]


def build(shape):
    import transformers as T

    if shape == "siglip2-base":
        text = dict(vocab_size=64, hidden_size=768, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)
        return T.SiglipModel(T.SiglipConfig(text_config=text, vision_config=dict(image_size=SIDE, patch_size=16)))
    return T.Dinov2Model(T.Dinov2Config(image_size=518, patch_size=14, hidden_size=384, num_attention_heads=6))


def make(shape, folder):
    """The model as transformers saves it. Norms and biases are not left at 1 and 0: one that is forgotten is to show."""
    import torch

    torch.manual_seed(0)
    model = build(shape).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() <= 1:
                weights.add_(0.05 * torch.randn(weights.shape))
    model.save_pretrained(folder)


def peer(model, folder, threads, runs):
    """Median milliseconds of torch on the picture in `folder`, and how far its vector is from the one in there."""
    import numpy, torch, transformers

    torch.set_num_threads(threads)
    net = transformers.AutoModel.from_pretrained(model, attn_implementation="sdpa").eval()
    net = getattr(net, "vision_model", net)
    pixels = torch.from_numpy(numpy.fromfile(Path(folder) / "input0.f32", numpy.float32).reshape(1, 3, SIDE, SIDE))
    times = []
    with torch.inference_mode():
        for _ in range(runs + 10):
            begin = time.perf_counter()
            vector = net(pixel_values=pixels).pooler_output
            times.append((time.perf_counter() - begin) * 1e3)
    theirs, ours = vector.numpy().ravel(), numpy.fromfile(Path(folder) / "output0.f32", numpy.float32)
    difference = float(abs(ours - theirs).max() / abs(theirs).max())
    return {"ms": statistics.median(times[10:]), "difference": difference, "torch": torch.__version__}


def compare(shape, args):
    rows = []
    with tempfile.TemporaryDirectory() as model, tempfile.TemporaryDirectory() as folder:
        common.run([sys.executable, __file__, "--make", shape, model])
        for _ in range(args.pairs):
            ours = ["--threads", args.threads, "bench", "vision", "--model", model, "--side", SIDE, "--runs", args.runs]
            theirs = [sys.executable, __file__, "--peer", model, folder, args.threads, args.runs]
            rows.append((common.dreamseed(*ours, "--dump", folder, "--json"), common.run(theirs)))
    return {
        "model": shape,
        "torch": rows[0][1]["torch"],
        "ours_ms": statistics.median(a["ms"] for a, _ in rows),
        "torch_ms": statistics.median(b["ms"] for _, b in rows),
        "times_as_fast": spread([b["ms"] / a["ms"] for a, b in rows]),
        "of_peak": statistics.median(a["of_peak"] for a, _ in rows),
        "mega_macs": rows[0][0]["mega_macs"],
        "largest_difference": max(b["difference"] for _, b in rows),
        "load": common.load(),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=SHAPES)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(*args.make)
        print("{}")
        return
    if args.peer:
        model, folder, threads, runs = args.peer
        print(json.dumps(peer(model, folder, int(threads), int(runs))))
        return
    result = {**common.head(args.threads), "vision": []}
    for shape in [args.only] if args.only else SHAPES:
        result["vision"].append(compare(shape, args))
        print(json.dumps(result["vision"][-1]))
        path = common.store(result, "vision")
    print(path)


if __name__ == "__main__":
    main()
