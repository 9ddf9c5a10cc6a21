#!/usr/bin/env python3
"""Senses, side by side with peers where they are installed: A B A B, medians, stored under benches/runs.

    cargo build --release
    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install faster-whisper "numpy<2" mediapipe==0.10.21
    /tmp/peers/bin/python benches/measure.py --pairs 5 [--video squats.mp4]

Each engine runs in a process of its own, the peers as this script with --peer. Times are each engine's own inner times
(loading left out), with the same files, threads and greedy decoding. A peer that is not installed is left out and said so.
The language models' part is benches/peers/llm.py.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time, wave
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
import common
from common import BINARY, HOME, Failed, spread


def run(command):
    """The last line of what a command prints, as JSON; None when it fails."""
    try:
        return common.run(command)
    except Failed as error:
        print(f"left out: {error}", file=sys.stderr)
        return None


def dreamseed(threads, *args):
    return run([BINARY, "--threads", threads, *args])


# -- peers, one process each ------------------------------------------------------------------------------------------


def peer_whisper(model, file, threads):
    from faster_whisper import WhisperModel

    whisper = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=threads)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        segments, _ = whisper.transcribe(file, beam_size=1)
        text = "".join(s.text for s in segments)
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds), "text": text.strip()}


def peer_mediapipe(video):
    import cv2, mediapipe

    frames, reader = [], cv2.VideoCapture(video)
    while (got := reader.read())[0]:
        frames.append(cv2.cvtColor(got[1], cv2.COLOR_BGR2RGB))
    times = []
    for _ in range(3):
        with mediapipe.solutions.pose.Pose(model_complexity=1) as pose:
            begin = time.perf_counter()
            for frame in frames:
                pose.process(frame)
            times.append((time.perf_counter() - begin) * 1e3 / len(frames))
    return {"pipeline_ms": statistics.median(times)}


# -- questions ----------------------------------------------------------------------------------------------------------


def minute(speech, folder):
    """The sample at 0 and at 30 s of a minute: said without a pause, the same words twice in a window would make both engines try
    again at higher temperatures."""
    path = Path(folder) / "minute.wav"
    with wave.open(str(speech)) as source, wave.open(str(path), "wb") as out:
        out.setparams(source.getparams())
        data = source.readframes(source.getnframes())
        half = 30 * source.getframerate() * source.getsampwidth() * source.getnchannels()
        out.writeframes(data[:half].ljust(half, b"\0") * 2)
    return path


def questions(args, folder):
    speech = HOME / "models/sample-speech/jfk.wav"
    t = args.threads
    for model in ["whisper-base", "whisper-tiny.en"]:
        for seconds, file in [(11, speech), (60, minute(speech, folder))]:
            yield (
                f"{model}, {seconds} s, greedy (peer: int8)",
                lambda m=model, f=file: dreamseed(t, "bench", "speech", "--model", m, "--file", f, "--runs", 3, "--json"),
                ["whisper", HOME / "models" / model, file, t],
                ["seconds"],
            )
    if args.video:
        yield (
            "BlazePose full, tracking a video",
            lambda: dreamseed(t, "bench", "pose", "--file", args.video, "--runs", 3, "--json"),
            ["mediapipe", args.video],
            ["pipeline_ms"],
        )


def lesson(threads):
    """The demo from the start of the process: seconds to the first token of feedback, and to the end."""
    begin = time.perf_counter()
    command = [str(BINARY), "--threads", str(threads), "coach", "--demo", "--json"]
    first, peak = None, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tempfile.gettempdir()) as process:
        for line in process.stdout:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max(peak, *(int(l.split()[1]) // 1024 for l in status.splitlines() if l.startswith("VmHWM")), 0)
            except (OSError, TypeError):
                pass
            if first is None and '"event":"token"' in line:
                first = time.perf_counter() - begin
    return {"first_token_s": first, "total_s": time.perf_counter() - begin, "peak_rss_mb": peak}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--video")
    parser.add_argument("--peer", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        name, *rest = args.peer
        rest = [int(r) if r.isdigit() else r for r in rest]
        print(json.dumps({"whisper": peer_whisper, "mediapipe": peer_mediapipe}[name](*rest)))
        return
    result = {**common.head(args.threads), "questions": []}
    folder = tempfile.TemporaryDirectory()
    for title, ours, peer, keys in questions(args, folder.name):
        rows = {"ours": [], "peer": []}
        for _ in range(args.pairs):
            rows["ours"].append(ours())
            rows["peer"].append(run([sys.executable, __file__, "--peer", *peer]))
        entry = {"question": title, "ours": rows["ours"][-1], "figures": []}
        for key in keys:
            a, b = ([r[key] for r in rows[side] if r] for side in ("ours", "peer"))
            faster = (lambda x, y: x / y) if key.endswith("per_s") else (lambda x, y: y / x)
            ratios = [faster(x[key], y[key]) for x, y in zip(rows["ours"], rows["peer"]) if x and y]
            figure = {"figure": key, "ours": statistics.median(a) if a else None, "peer": statistics.median(b) if b else None}
            if ratios:
                figure["times_as_fast"] = spread(ratios)
            entry["figures"].append(figure)
            print(json.dumps({"question": title, **figure}))
        result["questions"].append(entry)
    lessons = [lesson(args.threads) for _ in range(args.pairs)]
    result["lesson"] = {k: statistics.median(l[k] for l in lessons if l[k] is not None) for k in lessons[0]}
    print(json.dumps({"question": "the demo's lesson, from the start of the process", **result["lesson"]}))
    path = common.store(result, "senses")
    print(path)


if __name__ == "__main__":
    main()
