#!/usr/bin/env python3
"""The networks of pose and face beside LiteRT with XNNPACK: A B A B, medians, stored under benches/runs.

    cargo build --release
    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install ai-edge-litert
    /tmp/peers/bin/python benches/peers/nets.py [--pairs 7] [--threads 2] [FILE.tflite ...]

Each engine runs in a process of its own, on the same input and with as many threads, and computes every output of the file. A time is
the median of a process's runs; a ratio is that of two processes that ran one after the other. The largest difference of any output from
LiteRT's, in parts of that output's largest value, is told too. Without files: the networks that `dreamseed pull` has put into
DREAMSEED_HOME.
"""
import argparse, json, os, statistics, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import common
from common import HOME, Failed, spread


def peer(file, folder, threads, runs):
    """Median milliseconds of LiteRT on the inputs in `folder`, and its outputs beside those in there."""
    import numpy
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(model_path=file, num_threads=threads)
    net.allocate_tensors()
    if not any(op["op_name"] == "DELEGATE" for op in net._get_ops_details()):
        sys.exit("LiteRT runs without the XNNPACK delegate")
    for i, tensor in enumerate(net.get_input_details()):
        data = numpy.fromfile(Path(folder) / f"input{i}.f32", numpy.float32)
        net.set_tensor(tensor["index"], data.reshape(tensor["shape"]))
    times = []
    for i in range(runs + 10):
        begin = time.perf_counter()
        net.invoke()
        times.append((time.perf_counter() - begin) * 1e3)
    differences = {}
    for i, tensor in enumerate(net.get_output_details()):
        theirs = net.get_tensor(tensor["index"]).ravel()
        ours = numpy.fromfile(Path(folder) / f"output{i}.f32", numpy.float32)
        differences[tensor["name"]] = float(abs(ours - theirs).max() / max(abs(theirs).max(), 1e-30))
    return {"ms": statistics.median(times[10:]), "differences": differences}


def compare(file, args):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.pairs):
            ours = ["--threads", args.threads, "bench", "net", "--file", file, "--runs", args.runs, "--dump", folder, "--json"]
            theirs = [sys.executable, __file__, "--peer", file, folder, args.threads, args.runs]
            rows.append((common.dreamseed(*ours), common.run(theirs)))
    return {
        "net": Path(file).stem,
        "ours_ms": statistics.median(a["ms"] for a, _ in rows),
        "litert_ms": statistics.median(b["ms"] for _, b in rows),
        "times_as_fast": spread([b["ms"] / a["ms"] for a, b in rows]),
        "of_peak": statistics.median(a["of_peak"] for a, _ in rows),
        "mega_macs": rows[0][0]["mega_macs"],
        "largest_difference": max(rows[-1][1]["differences"].values()),
        "load": common.load(),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        file, folder, threads, runs = args.peer
        print(json.dumps(peer(file, folder, int(threads), int(runs))))
        return
    files = args.files or sorted(str(f) for f in (HOME / "models").glob("*/*.tflite"))
    if not files:
        sys.exit(f"no networks under {HOME / 'models'}; `dreamseed pull full` brings some")
    result = {**common.head(args.threads), "nets": []}
    for file in files:
        try:
            result["nets"].append(compare(file, args))
        except Failed as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        print(json.dumps(result["nets"][-1]))
        path = common.store(result, "nets")
    if result["nets"]:
        print(path)


if __name__ == "__main__":
    main()
