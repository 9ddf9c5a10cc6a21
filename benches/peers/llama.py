#!/usr/bin/env python3
"""llama.cpp at work, in a process of its own: runs under a Python that has llama-cpp-python, prints one line of JSON.

    PYTHON benches/peers/llama.py bench MODEL.gguf --prompt 512 --gen 128 --depth 2048 --threads 2
    PYTHON benches/peers/llama.py perplexity MODEL.gguf --file TEXT --threads 2

It calls llama.cpp's own C interface through the package's bindings: whole batches, no sampling, time around llama_decode
alone, as llama.cpp's own llama-bench does.
"""
import argparse, ctypes, json, math, statistics, time
from pathlib import Path


class Engine:
    """A model and a context with the settings of the command line."""

    def __init__(self, args, context, outputs=1):
        import llama_cpp

        self.c = c = llama_cpp
        self.quiet = c.llama_log_callback(lambda level, text, data: None)
        c.llama_log_set(self.quiet, ctypes.c_void_p(0))
        c.llama_backend_init()
        begin = time.perf_counter()
        params = c.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = bool(args.repack)
        self.model = c.llama_model_load_from_file(args.model.encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {args.model}")
        params = c.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = max(args.ubatch, outputs)
        params.n_ubatch = args.ubatch
        params.n_threads = params.n_threads_batch = args.threads
        params.flash_attn_type = int(args.flash)  # 0 off, 1 on
        params.no_perf = True
        self.context = c.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp makes no context with these settings")
        self.memory = c.llama_get_memory(self.context)
        self.vocab = c.llama_model_get_vocab(self.model)
        self.load_s = time.perf_counter() - begin

    def decode(self, tokens):
        """One call for as many tokens as a batch takes; the logits of the last are computed."""
        size = self.c.llama_n_batch(self.context)
        for at in range(0, len(tokens), size):
            part = tokens[at : at + size]
            array = (self.c.llama_token * len(part))(*part)
            if self.c.llama_decode(self.context, self.c.llama_batch_get_one(array, len(part))) != 0:
                raise SystemExit(f"llama_decode failed on {len(part)} tokens")
        self.c.llama_synchronize(self.context)

    def truncate(self, depth):
        if depth == 0:
            self.c.llama_memory_clear(self.memory, False)
        elif not self.c.llama_memory_seq_rm(self.memory, 0, depth, -1):
            raise SystemExit(f"llama.cpp does not go back to {depth} tokens")

    def tokens(self, first, count):
        """dreamseed's walk through the vocabulary (engine/cli/bench/llm.rs)."""
        size = self.c.llama_vocab_n_tokens(self.vocab)
        return [(i * 7919 + 13) % size for i in range(first, first + count)]

    def fill(self, depth, states):
        """Brings the cache to `depth` tokens, from a file that an earlier process left if there is one."""
        if depth == 0:
            self.decode(self.tokens(0, 8))
            return
        text, file = self.tokens(0, depth), None
        if states:
            file = states.encode()
            if Path(states).exists():
                array, count = (self.c.llama_token * depth)(), ctypes.c_size_t()
                if self.c.llama_state_load_file(self.context, file, array, depth, ctypes.byref(count)) and list(array) == text:
                    return
                self.truncate(0)
        self.decode(text)
        if file and not self.c.llama_state_save_file(self.context, file, (self.c.llama_token * depth)(*text), depth):
            raise SystemExit(f"{states} cannot be written")


def rates(runs, tokens, step):
    """Tokens a second of `runs` runs; None where there is nothing to run."""
    times = []
    for _ in range(runs if tokens else 0):
        begin = step()
        times.append(tokens / (time.perf_counter() - begin))
    return statistics.median(times) if times else None


def bench(args):
    engine = Engine(args, args.depth + args.prompt + args.gen + 8)
    engine.fill(args.depth, args.state)
    prompt, answer = engine.tokens(args.depth, args.prompt), engine.tokens(0, args.gen)

    def prefill():
        engine.truncate(args.depth)
        begin = time.perf_counter()
        engine.decode(prompt)
        return begin

    def decode():
        engine.truncate(args.depth)
        begin = time.perf_counter()
        for token in answer:
            engine.decode([token])
        return begin

    result = {
        "prefill_tokens_per_s": rates(args.runs, args.prompt, prefill),
        "decode_tokens_per_s": rates(args.runs, args.gen, decode),
        "load_s": engine.load_s,
        "peak_rss_mb": peak_rss_mb(),
    }
    if args.about:
        result["system"] = engine.c.llama_print_system_info().decode()
        result["version"] = engine.c.__version__
    return result


def perplexity(args):
    """As llama.cpp's perplexity tool: windows of --context tokens, each begun by the beginning mark, second halves count."""
    import numpy

    engine = Engine(args, args.context, args.context)
    c, size = engine.c, args.context
    text = Path(args.file).read_bytes()
    room = (c.llama_token * (len(text) + 8))()
    count = c.llama_tokenize(engine.vocab, text, len(text), room, len(room), True, False)
    if count < 2 * size:
        raise SystemExit(f"{args.file}: {count} tokens; windows of {size} need {2 * size}")
    tokens, vocab = list(room[:count]), c.llama_vocab_n_tokens(engine.vocab)
    bos = c.llama_vocab_bos(engine.vocab) if c.llama_vocab_get_add_bos(engine.vocab) else None
    batch, losses, first = c.llama_batch_init(size, 0, 1), [], size // 2
    for start in range(0, count // size * size, size):
        engine.truncate(0)
        window = tokens[start : start + size]
        if bos is not None:
            window[0] = bos
        batch.n_tokens = size
        for i, token in enumerate(window):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
            batch.logits[i] = i >= first
        if c.llama_decode(engine.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        for i in range(first, size - 1):
            logits = numpy.ctypeslib.as_array(c.llama_get_logits_ith(engine.context, i), shape=(vocab,)).astype(numpy.float64)
            most = logits.max()
            losses.append(float(most + numpy.log(numpy.exp(logits - most).sum()) - logits[window[i + 1]]))
    mean = sum(losses) / len(losses)
    variance = sum(l * l for l in losses) / len(losses) - mean * mean
    return {
        "perplexity": math.exp(mean),
        "standard_error": math.sqrt(variance / (len(losses) - 1)) * math.exp(mean),
        "scored_tokens": len(losses),
        "text_tokens": count,
    }


def peak_rss_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bench", "perplexity"])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repack", type=int, choices=[0, 1], default=1, help="weights repacked at load for wider kernels")
    parser.add_argument("--flash", type=int, choices=[0, 1], default=1, help="flash attention")
    parser.add_argument("--ubatch", type=int, default=512, help="tokens computed at once")
    parser.add_argument("--prompt", type=int, default=512, help="tokens read in one pass; 0: no prefill")
    parser.add_argument("--gen", type=int, default=128, help="tokens written; 0: no decode")
    parser.add_argument("--depth", type=int, default=0, help="tokens in the cache before either begins")
    parser.add_argument("--runs", type=int, default=3, help="measured runs; the median counts")
    parser.add_argument("--state", help="file that keeps the cache at that depth for a later process")
    parser.add_argument("--about", action="store_true", help="version and build of llama.cpp too")
    parser.add_argument("--file", help="text for perplexity")
    parser.add_argument("--context", type=int, default=512, help="tokens of a window of perplexity")
    args = parser.parse_args()
    print(json.dumps({"bench": bench, "perplexity": perplexity}[args.what](args)))


if __name__ == "__main__":
    main()
