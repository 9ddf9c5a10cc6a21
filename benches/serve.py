#!/usr/bin/env python3
"""Load on `dreamseed serve` with the embedded models, beside llama.cpp's server where it is installed: medians, stored under benches/runs.

    cargo build --release
    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install xllamacpp
    python3 benches/serve.py [--sound FILE] [--video FILE] [--peer /tmp/peers/bin/python] [--pairs 3]

Users ask one after the other, each over a connection of its own: chats of different questions whose answers are streamed, 1, 4 and 8
users at once; transcriptions of 10 s of --sound; lessons on its first 5 s; poses of 5 s of --video at 15 pictures a second. Told are the
times until the first event that carries something, between tokens, and to the end, and tokens a second of all users together. The peer
gets the same chats with the same weights and threads, in turn with dreamseed (A B A B). Its wheel is compiled for AVX2, so dreamseed runs
held to AVX2 too, and that is the pair whose ratio counts. `--soak MINUTES` runs a mixture of everything and
watches the server's memory.
"""
import argparse, http.client, json, os, random, socket, statistics, subprocess, sys, tempfile, threading, time, wave
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
import common
from common import BINARY, HOME

QUESTIONS = [
    "How do I keep my voice steady when I read aloud?",
    "Name three ways to practise rhythm in a dance lesson.",
    "My teacher says I speak too fast. What should I do first?",
    "Explain in simple words what stress in a sentence is.",
    "Which muscles do I warm up before a squat?",
    "Give me a short exercise for clear consonants.",
    "Why does a pause before an important word help?",
    "How can an actor show surprise without words?",
]


def percentile(values, share):
    """The smallest value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * share // 100) - 1))]


class Server:
    """A server on a free port, stopped at the end."""

    def __init__(self, command, ready, **environment):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = tempfile.TemporaryFile("w+")
        command = [str(c).replace("PORT", str(self.port)) for c in command]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env={**os.environ, **environment})
        end = time.monotonic() + 120
        while True:
            try:
                if self.get(ready)[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                sys.exit(f"{command[0]} does not start: {self.log.read()[-2000:]}")
            time.sleep(0.05)

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    def get(self, path):
        connection = self.connect()
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def resident_mb(self):
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))

    def close(self):
        self.process.terminate()
        self.process.wait(60)


def streamed(connection, path, body, kind):
    """Posts, and yields (seconds since then, data) of each event."""
    begin = time.perf_counter()
    connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {answer.read()[:300]}")
    for line in answer:
        if line.startswith(b"data: "):
            yield time.perf_counter() - begin, line[6:].strip()


def chat(server, question, tokens=64):
    """Seconds to the first text, to the end, and between texts; tokens of the answer."""
    body = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }
    times, count = [], 0
    for seconds, data in streamed(server.connect(), "/v1/chat/completions", json.dumps(body), "application/json"):
        if data == b"[DONE]":
            break
        event = json.loads(data)
        if event["choices"] and event["choices"][0]["delta"].get("content"):
            times.append(seconds)
        if event.get("usage"):
            count = event["usage"]["completion_tokens"]
    return {"first": times[0], "end": times[-1], "between": [b - a for a, b in zip(times, times[1:])], "tokens": count}


def form(fields):
    """A body of multipart/form-data and its kind."""
    edge, parts = "edge-of-the-form", []
    for name, value in fields.items():
        file = f'; filename="{value.name}"' if isinstance(value, Path) else ""
        content = value.read_bytes() if isinstance(value, Path) else str(value).encode()
        parts.append(f'--{edge}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n")
    return b"".join(parts) + f"--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"


def whole(server, path, body, kind):
    """Seconds to the end of an answer."""
    begin = time.perf_counter()
    connection = server.connect()
    connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {text[:300]}")
    return time.perf_counter() - begin


def together(users, each, job):
    """Runs `each` jobs for each of so many users at once; (results, seconds)."""
    results, failed, lock = [], [], threading.Lock()

    def user(u):
        for i in range(each):
            try:
                result = job(u * each + i)
            except Exception as error:  # told below: a thread's own trace would be lost among the others
                failed.append(error)
                return
            with lock:
                results.append(result)

    threads = [threading.Thread(target=user, args=(u,)) for u in range(users)]
    begin = time.perf_counter()
    [t.start() for t in threads]
    [t.join() for t in threads]
    if failed:
        raise failed[0]
    return results, time.perf_counter() - begin


def question(i):
    """Different for each request, so that no more of a prompt is known than of any other."""
    return f"{QUESTIONS[i % len(QUESTIONS)]} ({i // len(QUESTIONS) + 1})"


def chats(server, users, each):
    results, seconds = together(users, each, lambda i: chat(server, question(i)))
    firsts, betweens = [r["first"] for r in results], [b for r in results for b in r["between"]]
    return {
        "users": users,
        "chats": len(results),
        "first_ms": {"median": 1e3 * statistics.median(firsts), "p95": 1e3 * percentile(firsts, 95)},
        "between_ms": {"median": 1e3 * statistics.median(betweens), "p95": 1e3 * percentile(betweens, 95)},
        "tokens_per_s": sum(r["tokens"] for r in results) / seconds,
    }


def cut(sound, seconds, folder):
    """The beginning of a WAV file, repeated where it is shorter."""
    path = Path(folder) / f"{seconds}s.wav"
    with wave.open(str(sound)) as source, wave.open(str(path), "wb") as out:
        out.setparams(source.getparams())
        size = seconds * source.getframerate() * source.getsampwidth() * source.getnchannels()
        data = source.readframes(source.getnframes())
        out.writeframes((data * (size // len(data) + 1))[:size])
    return path


def shortened(video, seconds, folder):
    """The beginning of a video, its pictures as they are."""
    path = Path(folder) / f"{seconds}s{video.suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(video), "-t", str(seconds), "-c", "copy", str(path)], check=True)
    return path


def senses(server, args, folder):
    """Seconds of what is no chat, one user."""
    ten, five = cut(args.sound, 10, folder), cut(args.sound, 5, folder)
    runs = {"transcription of 10 s": lambda: whole(server, "/v1/audio/transcriptions", *form({"file": ten}))}
    if args.video:
        clip = shortened(args.video, 5, folder)
        runs["poses of 5 s at 15 pictures/s"] = lambda: whole(server, "/v1/pose", *form({"file": clip, "fps": 15}))
    result = {}
    for name, job in runs.items():
        job()
        result[name] = common.spread([job() for _ in range(5)])
    firsts, ends, routes = [], [], []
    for _ in range(5):
        body, kind = form({"file": five, "lab": "speech"})
        events = list(streamed(server.connect(), "/v1/coach", body, kind))
        firsts.append(events[0][0])
        ends.append(events[-1][0])
        done = json.loads(events[-1][1])
        routes += [s for name, s in done.get("seconds", []) if name == "route"]
    result["lesson on 5 s of speech: first event"] = common.spread(firsts)
    result["lesson on 5 s of speech: end"] = common.spread(ends)
    if routes:
        result["routing"] = common.spread(routes)
    return result


def soak(server, args, folder):
    """A mixture of everything for some minutes: the server's memory after the first tenth and at the end, requests and failures."""
    five, end = cut(args.sound, 5, folder), time.monotonic() + 60 * args.soak
    counts, failures, memory, lock = {}, [], [], threading.Lock()

    def user(seed):
        dice = random.Random(seed)
        while time.monotonic() < end:
            name = dice.choice(["chat", "chat", "speech", "lesson", "gone"])
            try:
                if name == "chat":
                    chat(server, question(dice.randrange(10_000)), dice.choice([8, 64, 200]))
                elif name == "speech":
                    whole(server, "/v1/audio/transcriptions", *form({"file": five, "response_format": "verbose_json"}))
                elif name == "lesson":
                    body, kind = form({"file": five, "lab": "speech", "language": dice.choice(["en", "ko"])})
                    list(streamed(server.connect(), "/v1/coach", body, kind))
                else:
                    connection = server.connect()
                    body = json.dumps({"messages": [{"role": "user", "content": question(seed)}], "stream": True})
                    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
                    time.sleep(dice.random())
                    connection.close()
            except Exception as error:
                failures.append(f"{name}: {error}")
            with lock:
                counts[name] = counts.get(name, 0) + 1

    threads = [threading.Thread(target=user, args=(s,)) for s in range(4)]
    begin = time.monotonic()
    [t.start() for t in threads]
    while any(t.is_alive() for t in threads):
        time.sleep(1)
        memory.append((time.monotonic() - begin, server.resident_mb()))
    settled = [m for t, m in memory if t > 0.1 * 60 * args.soak]
    tenth = max(1, len(settled) // 10)
    early, late = statistics.median(settled[:tenth]), statistics.median(settled[-tenth:])
    return {"minutes": args.soak, "requests": counts, "failures": failures[:20], "failed": len(failures), "resident_mb": [early, late]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sound", type=Path, default=HOME / "models/sample-speech/jfk.wav")
    parser.add_argument("--video", type=Path)
    parser.add_argument("--peer", type=Path, help="a Python that has xllamacpp, which brings llama.cpp's server")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--each", type=int, default=4, help="chats of each user")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--soak", type=float, default=0, help="minutes of mixed load, in place of the rest")
    args = parser.parse_args()
    weights = next((HOME / "models/smollm2-135m").glob("*.gguf"))
    result = {**common.head(args.threads), "weights": weights.name}
    ours = [BINARY, "--threads", args.threads, "serve", "--listen", "127.0.0.1:PORT"]
    theirs = [args.peer, Path(__file__).parent / "peers/llama_server.py", weights, "--port", "PORT", "--threads", args.threads]
    folder = tempfile.TemporaryDirectory()
    a = Server(ours, "/health/ready", DREAMSEED_LOG="warn")
    if args.soak:
        result["soak"] = soak(a, args, folder.name)
        print(json.dumps(result["soak"], indent=1))
        a.close()
        print(common.store(result, "soak"))
        grown = result["soak"]["resident_mb"][1] / result["soak"]["resident_mb"][0]
        sys.exit(1 if result["soak"]["failed"] or grown > 1.05 else 0)
    servers = {"ours": a}
    if args.peer:
        servers["ours_avx2"] = Server(ours, "/health/ready", DREAMSEED_LOG="warn", DREAMSEED_SIMD="avx2")
        servers["peer"] = Server(theirs, "/health")
        result["peer"] = common.run([*(0 if c == "PORT" else c for c in theirs), "--about"])
    for server in servers.values():
        chats(server, 2, 1)
    result["chats"] = []
    for users in (1, 4, 8):
        rows = [{name: chats(server, users, args.each) for name, server in servers.items()} for _ in range(args.pairs)]
        entry = {"users": users, "runs": rows}
        for side in servers:
            entry[side] = {
                "tokens_per_s": statistics.median(r[side]["tokens_per_s"] for r in rows),
                "first_ms_p95": statistics.median(r[side]["first_ms"]["p95"] for r in rows),
                "between_ms_median": statistics.median(r[side]["between_ms"]["median"] for r in rows),
            }
        for side in ["ours", "ours_avx2"] * bool(args.peer):
            ratios = [r[side]["tokens_per_s"] / r["peer"]["tokens_per_s"] for r in rows]
            entry[f"{side}_times_as_many_tokens"] = common.spread(ratios)
        result["chats"].append(entry)
        print(json.dumps({k: v for k, v in entry.items() if k != "runs"}))
    result["senses"] = senses(a, args, folder.name)
    print(json.dumps(result["senses"], indent=1))
    result["resident_mb"] = a.resident_mb()
    [s.close() for s in servers.values()]
    print(common.store(result, "serve"))


if __name__ == "__main__":
    main()
