#!/usr/bin/env python3
"""How right Whisper is, side by side with faster-whisper on the same weights: word errors, times of words, silence, languages.

    cargo build --release
    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install faster-whisper
    /tmp/peers/bin/python benches/peers/speech.py [--quick]

Speech with transcripts: the sample of `dreamseed pull sample-speech`, and Debian's pocketsphinx-testdata (fetched by apt-get); each
clip clean, with white noise at 10 dB, at 8 kHz and 20 dB quieter. Without speech: silence, white and pink noise, hum, a chord, clicks.
Korean and mixed speech: espeak-ng, where it is installed (synthetic: it tells which language is kept, not how right the words are).
The result is stored under benches/runs. faster-whisper runs as this script with --peer, in a process of its own, in int8 like dreamseed.
"""
import argparse, difflib, json, re, shutil, statistics, subprocess, sys, tempfile
from pathlib import Path

import common
from common import BINARY, HOME

RATE = 16000
DIGITS = {w: str(i) for i, w in enumerate("zero one two three four five six seven eight nine ten".split())}
SENSE = {
    "0870": "and mister john dashwood had then leisure to consider how much there might be prudently in his power to do for them",
    "0880": "he was not an ill disposed young man",
    "0890": "unless to be rather cold hearted and rather selfish is to be ill disposed",
    "0920": "had he married a more amiable woman he might have been made still more respectable than he was",
    "0930": "he might even have been made amiable himself",
}
CARDS = {
    "001": "ten of clubs",
    "002": "four queen of clubs",
    "003": "seven of clubs",
    "004": "five five",
    "005": "eight of spades four of clubs seven of hearts",
}
JFK = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
KOREAN = "안녕하세요 저는 오늘 학교에 갑니다 날씨가 아주 좋습니다 친구와 함께 점심을 먹고 도서관에서 책을 읽을 것입니다"
ENGLISH = "Good morning everyone. Today we will practise a short dialogue about the weather."


def words(text):
    """Lower case, no punctuation, numbers as digits, mister as mr: what both engines and a transcript may write differently."""
    text = re.sub(r"[^\w' ]+", " ", text.lower().replace("-", " "))
    named = {"mister": "mr", **DIGITS}
    return [named.get(w.strip("'"), w.strip("'")) for w in text.split() if w.strip("'")]


def errors(wanted, seen):
    """Substitutions, deletions and insertions (Levenshtein over words)."""
    row = list(range(len(seen) + 1))
    for i, w in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, s in enumerate(seen, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (w != s))
    return row[-1]


# -- clips --------------------------------------------------------------------------------------------------------------


def sox(*args):
    subprocess.run(["sox", "-R", *map(str, args)], check=True, capture_output=True)


def testdata(folder):
    """pocketsphinx-testdata, unpacked."""
    subprocess.run(["apt-get", "download", "pocketsphinx-testdata"], cwd=folder, check=True, capture_output=True)
    package = next(Path(folder).glob("pocketsphinx-testdata*.deb"))
    subprocess.run(["dpkg", "-x", package, folder], check=True)
    return Path(folder) / "usr/share/pocketsphinx/test/data"


def speech(folder):
    """(name, file, transcript) of every clip with a transcript."""
    data = testdata(folder)
    yield "jfk", HOME / "models/sample-speech/jfk.wav", JFK
    for name, text in SENSE.items():
        yield f"sense {name}", data / f"librivox/sense_and_sensibility_01_austen_64kb-{name}.wav", text
    for name, text in CARDS.items():
        yield f"cards {name}", data / f"cards/{name}.wav", text
    for name, text in {"goforward": "go forward ten meters", "something": "go somewhere and do something"}.items():
        out = Path(folder) / f"{name}.wav"
        sox("-t", "raw", "-r", RATE, "-e", "signed", "-b", 16, "-c", 1, data / f"{name}.raw", out)
        yield name, out, text


def variants(file, folder, quick):
    """The clip as it is and in worse conditions."""
    yield "clean", file
    if quick:
        return
    stem = Path(folder) / Path(file).stem
    level = float(re.search(r"RMS\s+amplitude:\s+([\d.]+)", subprocess.run(["sox", file, "-n", "stat"], capture_output=True, text=True).stderr)[1])
    sox(file, f"{stem}-noise.wav", "synth", "whitenoise", "vol", level * 10 ** (-10 / 20) * 3**0.5)
    sox("-m", "-v", 1, file, "-v", 1, f"{stem}-noise.wav", f"{stem}-noisy.wav")
    sox(file, "-r", 8000, f"{stem}-8k.wav")
    sox(file, f"{stem}-quiet.wav", "gain", -20)
    yield "noise at 10 dB", f"{stem}-noisy.wav"
    yield "8 kHz", f"{stem}-8k.wav"
    yield "20 dB quieter", f"{stem}-quiet.wav"


def without_speech(folder):
    made = {
        "silence": ["trim", 0, 12],
        "white noise": ["synth", 12, "whitenoise", "vol", 0.05],
        "pink noise": ["synth", 12, "pinknoise", "vol", 0.2],
        "hum": ["synth", 12, "sine", 50, "sine", 150, "remix", "1,2", "vol", 0.1],
        "chord": ["synth", 12, "pluck", "C3", "pluck", "E3", "pluck", "G3", "remix", "1-3", "vol", 0.3],
        "clicks": ["synth", 0.01, "whitenoise", "pad", 0, 0.99, "repeat", 11, "vol", 0.5],
    }
    for name, effects in made.items():
        out = Path(folder) / f"without-{name.replace(' ', '-')}.wav"
        sox("-n", "-r", RATE, "-c", 1, out, *effects)
        yield name, out


def synthetic(folder):
    """(name, file, language) of what espeak-ng says."""
    if not shutil.which("espeak-ng"):
        print("left out: espeak-ng is not installed", file=sys.stderr)
        return
    parts = {}
    for code, text in {"ko": KOREAN, "en": ENGLISH}.items():
        said, out = Path(folder) / f"said-{code}.wav", Path(folder) / f"espeak-{code}.wav"
        subprocess.run(["espeak-ng", "-v", {"en": "en-us"}.get(code, code), "-s", "140", "-w", said, text], check=True)
        sox(said, "-r", RATE, out)
        parts[code] = out
        yield f"espeak {code}", out, code
    mixed = Path(folder) / "mixed.wav"
    sox(parts["ko"], parts["en"], mixed)
    yield "espeak ko then en", mixed, "ko"


# -- engines ------------------------------------------------------------------------------------------------------------


def ours(model, beam, file, language=None):
    extra = ["--language", language] if language else []
    return common.dreamseed("--threads", 2, "transcribe", file, "--model", model, "--beam", beam, "--json", *extra)


class Peer:
    """faster-whisper in a process that reads a job a line."""

    def __init__(self, model, beam):
        command = [sys.executable, __file__, "--peer", HOME / "models" / model, str(beam)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, file, language=None):
        print(json.dumps([str(file), language]), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def peer(model, beam):
    from faster_whisper import WhisperModel

    whisper = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=2)
    for line in sys.stdin:
        file, language = json.loads(line)
        segments, info = whisper.transcribe(file, beam_size=int(beam), word_timestamps=True, language=language)
        spoken = [{"word": w.word, "start": w.start, "end": w.end} for s in segments for w in s.words or []]
        print(json.dumps({"language": info.language, "text": "".join(w["word"] for w in spoken), "words": spoken}), flush=True)


def spoken(transcript):
    return transcript.get("words") or [w for s in transcript["segments"] for w in s.get("words", [])]


def apart(a, b):
    """Differences of start and end, seconds, of the words that both heard."""
    a, b = ([(words(w["word"]), w) for w in spoken(t)] for t in (a, b))
    match = difflib.SequenceMatcher(None, [tuple(w) for w, _ in a], [tuple(w) for w, _ in b], autojunk=False)
    pairs = [(a[m.a + i][1], b[m.b + i][1]) for m in match.get_matching_blocks() for i in range(m.size)]
    return [abs(x[k] - y[k]) for x, y in pairs for k in ("start", "end")]


def compare(model, beam, clips, folder, quick):
    rows, times = [], []
    engine = Peer(model, beam)
    for name, file, wanted in clips:
        for condition, variant in variants(file, folder, quick):
            a, b = ours(model, beam, variant), engine.ask(variant)
            wanted_words = words(wanted)
            counts = [errors(wanted_words, words(t["text"])) for t in (a, b)]
            times += apart(a, b)
            rows.append({"clip": name, "condition": condition, "words": len(wanted_words), "dreamseed": counts[0], "peer": counts[1]})
            if counts[0] != counts[1]:
                rows[-1] |= {"dreamseed_text": a["text"], "peer_text": b["text"].strip()}
    engine.end()
    total = sum(r["words"] for r in rows)
    wer = lambda key, rows: round(100 * sum(r[key] for r in rows) / max(1, sum(r["words"] for r in rows)), 2)
    conditions = sorted({r["condition"] for r in rows})
    result = {
        "model": model,
        "beam": beam,
        "words": total,
        "wer_percent": {k: wer(k, rows) for k in ("dreamseed", "peer")},
        "by_condition": {c: {k: wer(k, [r for r in rows if r["condition"] == c]) for k in ("dreamseed", "peer")} for c in conditions},
        "word_times_apart_s": {"median": round(statistics.median(times), 3), "p95": round(sorted(times)[int(0.95 * len(times))], 3), "times": len(times)},
        "clips": rows,
    }
    print(f"{model}, beam {beam}: word error rate {result['wer_percent']}, {total} words; word times apart {result['word_times_apart_s']}")
    for c, w in result["by_condition"].items():
        print(f"  {c}: {w}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="clean clips and greedy decoding only")
    parser.add_argument("--models", nargs="+", default=["whisper-base", "whisper-tiny.en"])
    parser.add_argument("--peer", nargs=2, metavar=("MODEL", "BEAM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer(*args.peer)
    result = common.head(2) | {"topic": "speech", "errors": [], "empty": [], "languages": []}
    with tempfile.TemporaryDirectory() as folder:
        clips = list(speech(folder))
        for model in args.models:
            for beam in [1] if args.quick else [1, 5]:
                result["errors"].append(compare(model, beam, clips, folder, args.quick))
                common.store(result, "speech")
        base = args.models[0]
        engine = Peer(base, 1)
        for name, file in without_speech(folder):
            row = {"clip": name, "dreamseed": ours(base, 1, file)["text"], "peer": engine.ask(file)["text"].strip()}
            result["empty"].append(row)
            print(f"{name}: dreamseed {row['dreamseed']!r}, peer {row['peer']!r}")
        for name, file, language in synthetic(folder):
            a, b = ours(base, 1, file), engine.ask(file)
            told = ours(base, 1, file, language)["text"]
            row = {"clip": name, "spoken": language, "dreamseed": a["language"], "peer": b["language"], "dreamseed_text": a["text"], "peer_text": b["text"].strip(), "told_the_language": told}
            result["languages"].append(row)
            print(f"{name}: dreamseed {a['language']}, peer {b['language']}")
        engine.end()
    print(common.store(result, "speech"))


if __name__ == "__main__":
    main()
