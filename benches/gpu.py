#!/usr/bin/env python3
"""What `gpu.sh` runs: facts of the device, kernels against their references, decoders and their graphs, Whisper, pose, memory. Each step
is a process of its own with a time limit; one that fails is shown and the others go on. Standard library alone."""
import argparse, json, os, re, shutil, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "peers"), str(HERE)]
import common, synthetic

# lines of a test's output: its name, then whether it passed
TEST = re.compile(r"^test (\S+) \.\.\. (ok|FAILED|ignored)", re.MULTILINE)


class Failed(Exception):
    pass


class LeftOut(Exception):
    """What cannot be asked here; said, and no failure."""


def call(command, seconds, env=None):
    """Exit code, standard output and error of a process that has so many seconds."""
    command = [str(c) for c in command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, env=env)
    except subprocess.TimeoutExpired as e:
        raise Failed(f"{Path(command[0]).name} {' '.join(command[1:3])}: not done within {seconds:.0f} s") from e
    except OSError as e:
        raise Failed(str(e)) from e
    return done.returncode, done.stdout, done.stderr


class Bench:
    def __init__(self, args):
        self.args, self.begin = args, time.monotonic()
        self.rows, self.failures = [], 0
        self.gpus = 0
        self.result = {**common.head(args.threads), "device": None, "steps": []}
        if args.commit:
            self.result["commit"] = args.commit

    def name(self, device):
        """The first device that is named stands for the machine."""
        self.result["device"] = self.result["device"] or device

    def left(self):
        return 60 * self.args.minutes - (time.monotonic() - self.begin)

    def dreamseed(self, *args, seconds=240):
        """The JSON that a command prints."""
        home = ["--home", self.args.home] if self.args.home else []
        network = [] if self.args.fetch else ["--offline"]
        threads = ["--threads", self.args.threads]
        # variables of the build and of the tests are none that the program knows
        env = {k: v for k, v in os.environ.items() if not k.startswith("DREAMSEED_CUDA_")}
        command = [self.args.binary, *home, *network, *threads, *args]
        code, out, err = call(command, min(seconds, max(self.left(), 1)), env)
        lines = [line.strip() for line in err.strip().splitlines()]
        said, missing = " | ".join(lines[-3:]), [i for i, line in enumerate(lines) if line.endswith("weights are missing:")]
        if code and missing:
            which = " | ".join(lines[missing[0] + 1 : missing[0] + 2])
            raise LeftOut(f"{which}; --fetch lets weights be fetched, --home names where they are")
        if code:
            raise Failed(f"dreamseed {' '.join(map(str, args[:3]))}: exit {code}: {said}")
        try:
            return json.loads(out.strip().splitlines()[-1] if not out.lstrip().startswith("{\n") else out)
        except (ValueError, IndexError) as e:
            raise Failed(f"dreamseed {' '.join(map(str, args[:3]))}: no JSON in its output: {e}") from e

    def step(self, name, what):
        """Runs one step and keeps what it gives: rows of (figure, measured, planned, llama.cpp)."""
        print(f"... {name}", file=sys.stderr, flush=True)
        begin, entry = time.monotonic(), {"step": name, "status": "ok"}
        try:
            if self.left() <= 0:
                raise LeftOut(f"{self.args.minutes} minutes are over; --minutes gives more")
            entry["figures"] = what(entry)
        except LeftOut as e:
            entry.update(status="left out", why=str(e))
        except (Exception, SystemExit) as e:  # whatever it was: the other steps go on
            entry.update(status="FAILED", why=f"{e}" if isinstance(e, Failed) else f"{type(e).__name__}: {e}")
            self.failures += 1
        entry["seconds"] = round(time.monotonic() - begin, 1)
        self.result["steps"].append(entry)
        for figure in entry.get("figures") or [{}]:
            self.rows.append((name, entry, figure))
            name = ""
        return entry

    def store(self):
        return common.store(self.result, "gpu", self.args.out, self.result["device"] or "no-device")


def figure(name, measured, unit="", planned=None, peer=None):
    return {"figure": name, "measured": measured, "unit": unit, "planned": planned, "llama_cpp": peer}


# -- steps ------------------------------------------------------------------------------------------------------------------


def smi(fields):
    """A list a GPU of what nvidia-smi tells; None where there is no nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return None
    code, out, err = call(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"], 30)
    if code:
        raise Failed(f"nvidia-smi: exit {code}: {(err or out).strip()}")
    return [[f.strip() for f in line.split(",")] for line in out.strip().splitlines()]


def facts(bench, entry):
    """What the program's own look at the driver finds, and nvidia-smi's."""
    entry["doctor"] = doctor = bench.dreamseed("doctor", "--json", seconds=60)
    cuda = next((c for c in doctor.get("checks", []) if c.get("name") == "cuda"), {})
    seen = cuda.get("seen", "says nothing of CUDA")
    bench.gpus = len(re.findall(r"sm_\d+", seen))
    rows = [figure("doctor", (seen.split("; ") + [seen])[1])]
    fields = "name,driver_version,memory.total,memory.used,power.limit,clocks.max.memory,pcie.link.gen.current,pcie.link.width.current"
    known = smi(fields)
    if known is None:
        rows.append(figure("nvidia-smi", "is not installed"))
    for gpu in known or []:
        entry.setdefault("nvidia_smi", []).append(dict(zip(fields.split(","), gpu)))
        bench.name(gpu[0])
        rows.append(figure("nvidia-smi", f"{gpu[0]}, driver {gpu[1]}, {gpu[3]} of {gpu[2]} MiB used, {gpu[4]} W, PCIe {gpu[6]} x{gpu[7]}"))
    if known and len(known) > 1:
        entry["topology"] = call(["nvidia-smi", "topo", "-m"], 30)[1]
    if cuda.get("status") != "ok" or not bench.gpus:
        raise Failed(f"no GPU for this program: {seen}; {cuda.get('todo') or ''}")
    return rows


def tests(bench, entry, binary, *which):
    """Every kernel (decoder, text) against its reference on the device."""
    env = {**os.environ, "DREAMSEED_CUDA_TEST": "1"}
    command = [binary, *(which or ["cuda::"]), "--test-threads", "2"]
    code, out, err = call(command, min(bench.args.test_minutes * 60, max(bench.left(), 1)), env)
    entry["tests"] = seen = dict(TEST.findall(out))
    bad = [name for name, what in seen.items() if what == "FAILED"]
    passed = sum(what == "ok" for what in seen.values())
    if code or bad or not passed:
        entry["output"] = (out + err)[-8000:]
        panics = re.findall(r"panicked at [^\n]*\n([^\n]*)", out + err)
        raise Failed(f"{passed} passed, {len(bad)} failed ({', '.join(bad) or f'exit {code}'}): {panics[0] if panics else err.strip()[-300:]}")
    return [figure("agree with their references", f"{passed} of {passed} tests")]


def sums(bench, entry):
    """Sums over the GPUs by NCCL, where there are several."""
    if bench.gpus < 2:
        raise LeftOut(f"{bench.gpus} GPU; sums need two")
    try:
        return tests(bench, entry, bench.args.test["kernels"], "cuda::nccl::tests::sums_are_those_of_the_members", "--exact", "--ignored")
    except Failed as e:
        if "NCCL is not usable" in str(e) + entry.get("output", ""):
            raise LeftOut("NCCL is not installed (libnccl2)") from e
        raise


def graph(bench, entry, file):
    """A step replayed and launch by launch, and what is left of the memory."""
    r = bench.dreamseed("--device", "cuda", "bench", "graph", "--model", file, "--steps", bench.args.steps, "--runs", 3, "--json")
    entry["raw"] = r
    bench.name(r["device"])
    entry["figures"] = rows = [
        figure("launches of a step", r["launches"]),
        figure("a step, replayed", r["replayed_ms"], "ms"),
        figure("a step, launch by launch", r["direct_ms"], "ms"),
        figure("a launch outside a graph, more", r["launch_us"], "us", r["planned_launch_us"]),
        figure("memory allocated", r["allocated_bytes"] / 2**20, "MiB"),
        figure("memory left behind", r["left_behind_bytes"], "bytes", 0),
    ]
    lost = r["free_before_bytes"] - r["free_after_bytes"]
    if r["left_behind_bytes"]:
        raise Failed(f"{r['left_behind_bytes']} bytes were allocated and not freed")
    entry["driver_keeps_bytes"] = lost  # pools and modules of the driver: told, not judged
    return rows


def llama_bench(bench, file, prompt, tokens):
    """Tokens a second of reading and writing, where llama.cpp's bench is installed."""
    tool = shutil.which("llama-bench")
    if not tool:
        return None, None
    command = [tool, "-m", file, "-p", prompt, "-n", tokens, "-ngl", 99, "-r", 3, "-o", "json"]
    code, out, err = call(command, min(240, max(bench.left(), 1)))
    if code:
        raise Failed(f"llama-bench: exit {code}: {err.strip()[-200:]}")
    rates = {(r["n_prompt"], r["n_gen"]): r["avg_ts"] for r in json.loads(out)}
    return rates.get((prompt, 0)), rates.get((0, tokens))


def decode(bench, entry, file, depth):
    """Reading a prompt and writing tokens, as the engine serves them."""
    sizes = ["--prompt", bench.args.prompt, "--gen", bench.args.gen, "--depth", depth]
    r = bench.dreamseed("--device", "cuda", "bench", "llm", "--model", file, *sizes, "--runs", 3, "--json")
    entry["raw"] = r
    if "device" not in r:
        raise Failed("it ran on the processor, not on a GPU")
    if depth:
        return [figure(f"decode, depth {depth}", r["decode_tokens_per_s"], "tokens/s")]
    planned = r["predicted_tokens_per_s"]
    planned = "-".join(f"{p:.0f}" for p in planned) if planned else None
    entry["figures"] = rows = [
        figure(f"prefill {bench.args.prompt}", r["prefill_tokens_per_s"], "tokens/s"),
        figure("decode", r["decode_tokens_per_s"], "tokens/s", planned),
        figure("decode reads", r["decode_gb_s"], "GB/s"),
    ]
    rows[0]["llama_cpp"], rows[1]["llama_cpp"] = llama_bench(bench, file, bench.args.prompt, bench.args.gen)
    return rows


def there(what, path):
    if not Path(path).exists():
        raise LeftOut(f"{path} is not there; --{what} names another")


def speech(bench, entry):
    there("speech", bench.args.speech)
    entry["raw"] = r = bench.dreamseed("bench", "speech", "--model", bench.args.whisper, "--file", bench.args.speech, "--runs", 3, "--json")
    where = r.get("device") or f"processor, {r['threads']} threads"
    return [figure(f"{bench.args.whisper}, {r['audio_seconds']:.0f} s of speech ({where})", r["seconds"], "s")]


def pose(bench, entry):
    there("picture", bench.args.picture)
    entry["raw"] = r = bench.dreamseed("bench", "pose", "--file", bench.args.picture, "--runs", 5, "--json")
    where = r.get("device") or f"processor, {r['threads']} threads"
    return [figure(f"full, a picture alone, {r['people']} person ({where})", r["static_ms"], "ms")]


def memory(entry, before):
    """Of all processes, before the first step and after the last."""
    after = smi("memory.used")
    if before is None or after is None:
        raise LeftOut("no nvidia-smi tells what is used")
    entry["used_mib"] = [before, after]
    return [figure(f"GPU {i}, used before and after", f"{b[0]} and {a[0]} MiB") for i, (b, a) in enumerate(zip(before, after))]


# -- the whole --------------------------------------------------------------------------------------------------------------


def text(value):
    if value is None:
        return "-"
    return f"{value:,.{1 if abs(value) >= 100 else 3}f}" if isinstance(value, float) else str(value)


def table(bench):
    lines = [("step", "", "measured", "planned", "llama.cpp", "status")]
    for name, entry, f in bench.rows:
        measured = f"{text(f['measured'])} {f['unit']}".strip() if f else ""
        status = entry["status"] if name else ""
        lines.append((name, f.get("figure", ""), measured, text(f.get("planned")), text(f.get("llama_cpp")), status))
    widths = [max(len(line[i]) for line in lines if i != 2 or len(line[i]) < 40) for i in range(6)]
    rows = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines]
    why = [f"{e['status']}: {e['step']}: {e['why']}" for e in bench.result["steps"] if "why" in e]
    return "\n".join([*rows, "", *why])


def run(bench, folder):
    args = bench.args
    before = None
    try:
        before = smi("memory.used")
    except Failed as e:
        print(e, file=sys.stderr)
    bench.step("device", lambda entry: facts(bench, entry))
    for name, binary in sorted(args.test.items()):
        bench.step(f"tests of {name}", lambda entry, b=binary: tests(bench, entry, b))
    bench.step("NCCL", lambda entry: sums(bench, entry))
    for shape in args.shapes:
        file = Path(args.files or folder) / f"{shape}.gguf"
        made = bench.step(f"make {shape}", lambda entry: [figure("file", synthetic.write(shape, file).stat().st_size / 2**20, "MiB")])
        if made["status"] != "ok":
            continue
        bench.step(f"graph {shape}", lambda entry: graph(bench, entry, file))
        bench.step(f"LLM {shape}", lambda entry: decode(bench, entry, file, 0))
        for depth in args.depth:
            bench.step(f"LLM {shape}, deep", lambda entry, d=depth: decode(bench, entry, file, d))
        if not args.files:
            file.unlink(missing_ok=True)
        bench.store()
    bench.step("Whisper", lambda entry: speech(bench, entry))
    bench.step("pose", lambda entry: pose(bench, entry))
    bench.step("memory", lambda entry: memory(entry, before))


def options():
    home = common.HOME
    parser = argparse.ArgumentParser(prog="gpu.sh --run", description=__doc__)
    listed = lambda of: lambda value: [of(v) for v in value.split(",") if v]
    parser.add_argument("--shapes", type=listed(str), default=["qwen3-1.7b", "qwen3-4b", "llama3-8b"], help="of synthetic.py, with commas")
    parser.add_argument("--depth", type=listed(int), default=[4096], help="positions before decoding begins, with commas; besides 0")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=128)
    parser.add_argument("--steps", type=int, default=64, help="of the graph's measurement")
    parser.add_argument("--minutes", type=float, default=10, help="what is not begun by then is left out")
    parser.add_argument("--test-minutes", type=float, default=3, help="that the tests of one crate may take")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--files", help="keep the synthetic models here (default: a temporary folder, one at a time)")
    parser.add_argument("--whisper", default="whisper-tiny.en", help="an id or a folder")
    parser.add_argument("--speech", default=home / "models/sample-speech/jfk.wav", help="a recording")
    parser.add_argument("--picture", default=home / "models/sample-portrait/astronaut.png", help="a picture with a person, or a video")
    parser.add_argument("--home", help="where weights are")
    parser.add_argument("--fetch", action="store_true", help="let weights that are not there be fetched")
    parser.add_argument("--out", default=HERE / "runs", help="where results are stored")
    parser.add_argument("--json", action="store_true", help="print the stored result instead of the table")
    parser.add_argument("--binary", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--test", type=lambda v: v.split("=", 1), action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--commit", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.test = dict(args.test)
    if unknown := [s for s in args.shapes if s not in synthetic.SHAPES]:
        parser.error(f"--shapes {','.join(unknown)}: there are {', '.join(synthetic.SHAPES)}")
    return args


def main():
    bench = Bench(options())
    with tempfile.TemporaryDirectory() as folder:
        run(bench, folder)
    path = bench.store()
    print(json.dumps(bench.result, indent=1) if bench.args.json else table(bench))
    print(f"\n{path}", file=sys.stderr)
    if bench.failures:
        print(f"{bench.failures} steps FAILED", file=sys.stderr)
    sys.exit(1 if bench.failures else 0)


if __name__ == "__main__":
    main()
