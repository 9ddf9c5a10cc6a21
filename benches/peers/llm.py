#!/usr/bin/env python3
"""dreamseed beside llama.cpp, side by side on this machine: speed of prefill and decode, and perplexity.

    cargo build --release
    python3 benches/peers/llm.py                        # everything: about an hour and 10 GB of disk
    python3 benches/peers/llm.py --models smollm2 --pairs 7

llama.cpp is built natively from its Python package's source into --cache unless --python names a Python that has
llama-cpp-python. Both engines run the same file with the same threads, in turn (A B A B), each in a process of its own; llama.cpp
with the best of its settings (weights repacked or not, flash attention or not, size of its batches), which a short search before
each question finds. Files of 1.7B, 4B and 8B shape have random weights (synthetic.py). The table at the end holds ratios of
pairs: other work on the machine meets both alike. Everything goes to benches/runs, again after each question.
"""
import argparse, hashlib, os, subprocess, sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import synthetic
from common import BINARY, HOME, Failed, dreamseed, head, load, run, spread, store

LLAMA = Path(__file__).resolve().parent / "llama.py"


@dataclass(frozen=True)
class Question:
    """Tokens a second of one kind behind `depth` tokens, and how many times as fast as llama.cpp they are meant to be."""

    kind: str  # prefill or decode
    depth: int = 0
    bar: float = 0.0
    busy: int = 0  # other processes that compute without end on the same cores

    def title(self):
        if self.kind == "prefill":
            return "prefill 512"
        beside = f", beside {self.busy} busy process{'es' if self.busy > 1 else ''}" if self.busy else ""
        return f"decode, depth {self.depth:,}{beside}"


@dataclass(frozen=True)
class Model:
    title: str
    file: str  # an id of weights.toml, or a shape of synthetic.py
    questions: list
    tokens: int  # written in a run of decode
    runs: int = 3  # in each process

    def path(self, args):
        if self.file in synthetic.SHAPES:
            path = args.cache / f"{self.file}-q4_k_m.gguf"
            print(f"making {path}" if not path.exists() else f"using {path}", file=sys.stderr)
            return synthetic.write(self.file, path)
        path = HOME / "models" / self.file / f"{self.file}.gguf"
        if not path.exists():
            subprocess.run([args.binary, "pull", self.file], check=True, stdout=sys.stderr)
        return path


def decode(*depths_and_bars):
    return [Question("decode", depth, bar) for depth, bar in depths_and_bars]


MODELS = {
    "smollm2": Model(
        "SmolLM2-135M Q4_1",
        "smollm2-135m",
        decode((0, 1.6), (2048, 2.0), (8192, 2.0))
        + [Question("prefill", bar=2.5), Question("decode", busy=1), Question("decode", busy=2)],
        128,
    ),
    "gemma3": Model("Gemma 3 270M Q4_K_M", "gemma3-270m", decode((0, 1.5)) + [Question("prefill", bar=2.0)], 128),
    "1.7b": Model(
        "1.7B-shaped Q4_K_M",
        "qwen3-1.7b",
        decode((0, 1.2), (2048, 1.3), (8192, 1.5)) + [Question("prefill", bar=2.0)],
        32,
    ),
    "4b": Model("4B-shaped Q4_K_M", "qwen3-4b", decode((0, 0.0)) + [Question("prefill")], 32, 1),
    "8b": Model("8B-shaped Q4_K_M", "llama3-8b", decode((0, 1.0)) + [Question("prefill", bar=2.0)], 32, 1),
    "tiny": Model("tiny, to try the scripts", "tiny", decode((0, 0.0), (64, 0.0)) + [Question("prefill")], 32),
}
PERPLEXITY = ["smollm2", "gemma3"]
SETTINGS = [{"repack": repack, "flash": flash, "ubatch": 512} for repack in (1, 0) for flash in (1, 0)]


def flags(settings):
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


# -- setting up -------------------------------------------------------------------------------------------------------


def peer(args):
    """A Python with llama-cpp-python: the one named, or one in the cache, made where it is missing."""
    has = lambda python: subprocess.run([python, "-c", "import llama_cpp"], capture_output=True).returncode == 0
    if args.python:
        if not has(args.python):
            sys.exit(f"{args.python} has no llama_cpp; install llama-cpp-python there, or leave --python out")
        return args.python
    python = args.cache / "venv/bin/python"
    if not python.exists() or not has(python):
        print(f"building llama.cpp natively in {args.cache / 'venv'}: some minutes", file=sys.stderr)
        args.cache.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", args.cache / "venv"], check=True)
        wanted = "llama-cpp-python" + (f"=={args.version}" if args.version else "")
        env = {**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=ON"}
        install = [python, "-m", "pip", "install", "--no-binary", "llama-cpp-python", wanted]
        subprocess.run(install, check=True, env=env, stdout=sys.stderr)
    return python


# -- measuring --------------------------------------------------------------------------------------------------------


@contextmanager
def neighbours(count):
    """So many processes that compute without end meanwhile."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


class Bench:
    """Both engines on one file."""

    def __init__(self, args, python, key):
        self.args, self.python, self.key, self.model = args, python, key, MODELS[key]
        self.file = self.model.path(args)

    def sizes(self, question):
        prompt, gen = (512, 0) if question.kind == "prefill" else (0, self.model.tokens)
        return ["--prompt", prompt, "--gen", gen, "--depth", question.depth, "--threads", self.args.threads]

    def ours(self, question):
        sizes = self.sizes(question)
        result = dreamseed(
            "bench", "llm", "--model", self.file, *sizes, "--runs", self.model.runs, "--json", binary=self.args.binary
        )
        return {k: v for k, v in result.items() if v is not None}

    def theirs(self, question, settings, runs=None):
        # caches of different layouts: values are transposed without flash attention
        state = self.args.cache / f"{self.key}-{question.depth}-{settings['flash']}.state"
        keep = ["--state", state] if question.depth else []
        runs = ["--runs", runs or self.model.runs]
        return run([self.python, LLAMA, "bench", self.file, *self.sizes(question), *flags(settings), *runs, *keep])

    def search(self, question):
        """llama.cpp's rate with each of its settings, the best first."""
        rate = f"{question.kind}_tokens_per_s"
        tried = []

        def attempt(settings):
            rates = [self.theirs(question, settings, 1)[rate] for _ in range(self.args.search)]
            tried.append({"settings": settings, "tokens_per_s": max(rates)})
            print(f"  llama.cpp {settings}: {max(rates):.1f} tokens/s", file=sys.stderr)
            tried.sort(key=lambda t: -t["tokens_per_s"])

        for settings in SETTINGS:
            attempt(settings)
        if question.kind == "prefill":
            for ubatch in (256, 128):
                attempt({**tried[0]["settings"], "ubatch": ubatch})
        return tried

    def compare(self, question):
        """Pairs of runs, in turn; the ratio of each pair."""
        rate = f"{question.kind}_tokens_per_s"
        tried, pairs = self.search(question), []
        with neighbours(question.busy):
            for _ in range(self.args.pairs):
                a, b = self.ours(question), self.theirs(question, tried[0]["settings"])
                pairs.append({"dreamseed": a, "llama.cpp": b, "load": load(), "ratio": a[rate] / b[rate]})
                print(f"  {a[rate]:.1f} beside {b[rate]:.1f} tokens/s: {pairs[-1]['ratio']:.2f}", file=sys.stderr)
        result = {
            "question": question.title(),
            "settings": tried[0]["settings"],
            "dreamseed": spread([p["dreamseed"][rate] for p in pairs]),
            "llama.cpp": spread([p["llama.cpp"][rate] for p in pairs]),
            "ratio": spread([p["ratio"] for p in pairs]),
            "bar": question.bar or None,
            "search": tried,
            "pairs": pairs,
        }
        for limit in ("decode_of_bandwidth", "prefill_of_peak"):
            if limit in pairs[0]["dreamseed"]:
                result[limit] = spread([p["dreamseed"][limit] for p in pairs])
        return result


def words(args):
    """A text that every Python carries: its own language reference."""
    if args.text:
        return args.text
    from pydoc_data import topics

    path = args.cache / "reference.txt"
    path.write_text("\n\n".join(topics.topics[name] for name in sorted(topics.topics))[:60_000])
    return path


def compare_perplexity(bench, text):
    ours = dreamseed(
        *["bench", "perplexity", "--model", bench.file, "--file", text, "--threads", bench.args.threads, "--json"],
        binary=bench.args.binary,
    )
    theirs = run([bench.python, LLAMA, "perplexity", bench.file, "--file", text, "--threads", bench.args.threads])
    apart = ours["perplexity"] / theirs["perplexity"] - 1
    digest = hashlib.sha256(Path(text).read_bytes()).hexdigest()
    return {"dreamseed": ours, "llama.cpp": theirs, "apart": apart, "text_sha256": digest}


# -- showing ----------------------------------------------------------------------------------------------------------


def table(result):
    """The ratios beside their bars, in Markdown."""
    lines = [
        "| model | question | dreamseed | llama.cpp | times as fast (min, max) | wanted | of the machine's limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in result["models"]:
        for q in entry["questions"]:
            limit = q.get("decode_of_bandwidth") or q.get("prefill_of_peak")
            share = f"{limit['median']:.0%}" if limit else ""
            if entry["model"].startswith("8B") and "decode_of_bandwidth" in q:
                share += " (90% wanted)"
            r, wanted = q["ratio"], q["bar"]
            verdict = f"{wanted}{'' if r['median'] >= wanted else ': missed'}" if wanted else ""
            speeds = f"{q['dreamseed']['median']:,.1f} | {q['llama.cpp']['median']:,.1f}"
            ratio = f"{r['median']:.2f} ({r['min']:.2f}, {r['max']:.2f})"
            lines.append(f"| {entry['model']} | {q['question']} | {speeds} | {ratio} | {verdict} | {share} |")
    for entry in result["models"]:
        if p := entry.get("perplexity"):
            a, b = p["dreamseed"]["perplexity"], p["llama.cpp"]["perplexity"]
            lines.append(f"\n{entry['model']}, perplexity: {a:.4f}, llama.cpp {b:.4f} ({p['apart']:+.2%})")
    return "\n".join(lines)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [key for key in MODELS if key != "tiny"]
    parser.add_argument("--models", nargs="+", choices=MODELS, default=default, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--only", choices=["decode", "prefill", "perplexity"], help="only this kind of question")
    parser.add_argument("--busy", nargs="+", type=int, metavar="N", help="only questions beside so many busy processes")
    parser.add_argument("--depths", nargs="+", type=int, metavar="N", help="only questions at these depths")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs for each question (default 5)")
    parser.add_argument("--search", type=int, default=2, help="runs of each of llama.cpp's settings, the best counts (default 2)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both engines (default: all cores)")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dreamseed-peers"
    parser.add_argument("--cache", type=Path, default=cache, help=f"folder for llama.cpp and the large files (default {cache})")
    parser.add_argument("--python", type=Path, help="a Python that has llama-cpp-python, instead of one in the cache")
    parser.add_argument("--version", help="version of llama-cpp-python to build (default: the newest)")
    parser.add_argument("--binary", type=Path, default=BINARY, help="dreamseed's program (default target/release/dreamseed)")
    parser.add_argument("--text", type=Path, help="text for perplexity (default: the language reference that Python carries)")
    parser.add_argument("--runs", type=Path, default=None, help="folder for the result (default benches/runs)")
    parser.add_argument("--topic", default="llm", help="last part of the result's file name (default llm)")
    args = parser.parse_args()
    if args.pairs < 1 or args.search < 1 or args.threads < 1:
        parser.error("--pairs, --search and --threads must be at least 1")
    return args


def chosen(question, args):
    return (not args.depths or question.depth in args.depths) and (args.busy is None or question.busy in args.busy)


def main():
    args = arguments()
    args.cache.mkdir(parents=True, exist_ok=True)
    python = peer(args)
    result = {**head(args.threads), "models": []}
    keep = lambda: store(result, args.topic, *([args.runs] if args.runs else []))
    for key in args.models:
        bench = Bench(args, python, key)
        entry = {"model": bench.model.title, "file_mib": round(bench.file.stat().st_size / (1 << 20)), "questions": []}
        result["models"].append(entry)
        try:
            about = run([python, LLAMA, "bench", bench.file, "--prompt", 8, "--gen", 0, "--runs", 1, "--about"])
            result["llama_cpp"] = {"python_package": about["version"], "system": about["system"]}
            for question in bench.model.questions:
                if args.only in (None, question.kind) and chosen(question, args):
                    print(f"{bench.model.title}, {question.title()}", file=sys.stderr)
                    entry["questions"].append(bench.compare(question))
                    keep()
            if key in PERPLEXITY and args.only in (None, "perplexity"):
                print(f"{bench.model.title}, perplexity", file=sys.stderr)
                entry["perplexity"] = compare_perplexity(bench, words(args))
        except Failed as error:
            entry["failed"] = str(error)
            print(f"{bench.model.title}: {error}", file=sys.stderr)
        for state in args.cache.glob(f"{key}-*.state"):  # gigabytes at great depth
            state.unlink()
    path = keep()
    print(table(result))
    print(f"\n{path}")
    if any("failed" in entry for entry in result["models"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
