#!/usr/bin/env python3
"""Makes GGUF files in the shape of well-known models, in the mixture of types that llama.cpp's quantizer calls Q4_K_M, with
random weights: speed does not depend on their values. Standard library alone; a minute and 5 GB for the largest.

    python3 benches/peers/synthetic.py llama3-8b /tmp/llama3-8b.gguf
"""
import argparse, os, random, shutil, struct, sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    arch: str
    layers: int
    dim: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    context: int
    rope_base: float


SHAPES = {
    "qwen3-1.7b": Shape("qwen3", 28, 2048, 6144, 16, 8, 128, 151936, True, 40960, 1e6),
    "qwen3-4b": Shape("qwen3", 36, 2560, 9728, 32, 8, 128, 151936, True, 40960, 1e6),
    "llama3-8b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 128256, False, 131072, 5e5),
    "tiny": Shape("qwen3", 2, 256, 512, 4, 2, 64, 512, True, 4096, 1e4),  # to try the scripts
}

# ggml's numbers of the types: elements and bytes of a block, then what a block of them looks like
F32, Q4_K, Q6_K = 0, 12, 14
BLOCKS = {F32: (1, 4), Q4_K: (256, 144), Q6_K: (256, 210)}
ALIGNMENT = 32
POOL = 1 << 16  # blocks of each type that are made; tensors begin at different ones of them


def more_bits(layer, layers):
    """The layers to whose value and down projections the quantizer gives six bits: first and last eighth, every third."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def tensors(s):
    """(name, dimensions with the fastest first, type) of every tensor."""
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    yield "token_embd.weight", [s.dim, s.vocab], Q6_K if s.tied else Q4_K
    if not s.tied:
        yield "output.weight", [s.dim, s.vocab], Q6_K
    yield "output_norm.weight", [s.dim], F32
    for i in range(s.layers):
        large = Q6_K if more_bits(i, s.layers) else Q4_K
        yield f"blk.{i}.attn_norm.weight", [s.dim], F32
        yield f"blk.{i}.attn_q.weight", [s.dim, q], Q4_K
        yield f"blk.{i}.attn_k.weight", [s.dim, kv], Q4_K
        yield f"blk.{i}.attn_v.weight", [s.dim, kv], large
        if s.arch == "qwen3":
            yield f"blk.{i}.attn_q_norm.weight", [s.head_dim], F32
            yield f"blk.{i}.attn_k_norm.weight", [s.head_dim], F32
        yield f"blk.{i}.attn_output.weight", [q, s.dim], Q4_K
        yield f"blk.{i}.ffn_norm.weight", [s.dim], F32
        yield f"blk.{i}.ffn_gate.weight", [s.dim, s.hidden], Q4_K
        yield f"blk.{i}.ffn_up.weight", [s.dim, s.hidden], Q4_K
        yield f"blk.{i}.ffn_down.weight", [s.hidden, s.dim], large


def size(dims, kind):
    elements = 1
    for d in dims:
        elements *= d
    block, number = BLOCKS[kind]
    return elements // block * number


def blocks(kind, deviation, noise):
    """POOL blocks of random codes and scales, with factors that give weights of about this standard deviation, mean near 0."""
    half = lambda v: struct.pack("<e", v)
    number = BLOCKS[kind][1]
    data = bytearray(noise.randbytes(POOL * number))
    fields = [(0, deviation / 258), (2, 7.5 * deviation / 258)] if kind == Q4_K else [(208, deviation / 1369)]
    for at, value in fields:
        for i, byte in enumerate(half(value)):
            data[at + i :: number] = bytes([byte]) * POOL
    return bytes(data)


def characters():
    """How byte-level BPE writes the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def header(s, name):
    """Everything before the tensors' data, and the data's layout: (bytes, [(dimensions, type)])."""
    text = lambda t: struct.pack("<Q", len(t.encode())) + t.encode()
    u32 = lambda v: struct.pack("<II", 4, v)
    f32 = lambda v: struct.pack("<If", 6, v)
    string = lambda v: struct.pack("<I", 8) + text(v)
    strings = lambda v: struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(text, v))
    letters = characters()
    tokens = letters + ["Ġt", "he"] + [f"<{i}>" for i in range(s.vocab - len(letters) - 3)] + ["<|endoftext|>"]
    kinds = [1] * (s.vocab - 1) + [3]  # normal, and one control token
    arch = s.arch
    metadata = {
        "general.architecture": string(arch),
        "general.name": string(name),
        "general.file_type": u32(15),
        "general.quantization_version": u32(2),
        "general.alignment": u32(ALIGNMENT),
        f"{arch}.block_count": u32(s.layers),
        f"{arch}.context_length": u32(s.context),
        f"{arch}.embedding_length": u32(s.dim),
        f"{arch}.feed_forward_length": u32(s.hidden),
        f"{arch}.attention.head_count": u32(s.heads),
        f"{arch}.attention.head_count_kv": u32(s.kv_heads),
        f"{arch}.attention.key_length": u32(s.head_dim),
        f"{arch}.attention.value_length": u32(s.head_dim),
        f"{arch}.attention.layer_norm_rms_epsilon": f32(1e-6),
        f"{arch}.rope.dimension_count": u32(s.head_dim),
        f"{arch}.rope.freq_base": f32(s.rope_base),
        f"{arch}.vocab_size": u32(s.vocab),
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string("qwen2"),
        "tokenizer.ggml.tokens": strings(tokens),
        "tokenizer.ggml.token_type": struct.pack("<IIQ", 9, 5, len(kinds)) + struct.pack(f"<{len(kinds)}i", *kinds),
        "tokenizer.ggml.merges": strings(["Ġ t", "h e"]),
        "tokenizer.ggml.eos_token_id": u32(s.vocab - 1),
    }
    infos, layout, offset = [], [], 0
    for tensor, dims, kind in tensors(s):
        infos.append(text(tensor) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset))
        layout.append((dims, kind))
        offset += -(-size(dims, kind) // ALIGNMENT) * ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(metadata))
    head += b"".join(text(k) + v for k, v in metadata.items()) + b"".join(infos)
    return head + bytes(-len(head) % ALIGNMENT), layout, offset


def write(name, path):
    """Writes the file of a shape unless it is there already in full; returns its path."""
    path, s = Path(path), SHAPES[name]
    head, layout, data = header(s, name)
    total = len(head) + data
    if path.exists() and path.stat().st_size == total:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < total + (1 << 30):
        sys.exit(f"{path}: {total >> 20} MiB are to be written and {free >> 20} MiB are free; choose another folder")
    noise = random.Random(name)
    pools = {kind: blocks(kind, s.dim**-0.5, noise) for kind in (Q4_K, Q6_K)}
    part = path.with_suffix(".part")
    with open(part, "wb") as out:
        out.write(head)
        for dims, kind in layout:
            left = size(dims, kind)
            pad = -left % ALIGNMENT
            if kind == F32:
                out.write(struct.pack("<f", 1.0) * (left // 4))
                left = 0
            pool = memoryview(pools.get(kind, b""))
            at = noise.randrange(POOL) * BLOCKS[kind][1]
            while left > 0:
                piece = pool[at : at + left]
                out.write(piece)
                left, at = left - len(piece), 0
            out.write(bytes(pad))
        out.flush()
        os.fsync(out.fileno())
    part.rename(path)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES, help="which model's shape")
    parser.add_argument("file", type=Path, help="the GGUF file to write; left alone when it is there in full")
    args = parser.parse_args()
    print(write(args.shape, args.file))


if __name__ == "__main__":
    main()
