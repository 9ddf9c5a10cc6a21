"""Delay of streamed speech: `python3 benches/stream.py BINARY FILE... [-- FLAGS]` plays each file at its own pace through
`transcribe --stream --json` and holds the words against `transcribe --json`. Delays are from the end of a word by its own time to
the line that makes it final; the program's start counts as the start of the sound."""

import difflib
import json
import statistics
import subprocess
import sys
import time


def plain(words):
    return ["".join(c for c in w["word"].lower() if c.isalnum()) for w in words]


def words_of(transcript):
    return [w for s in transcript["segments"] for w in s["words"]]


def play(command, path):
    process = subprocess.Popen([*command, "--stream", "--realtime", path], stdout=subprocess.PIPE, text=True)
    finals, shown, changed, stamps = [], 0, 0, []
    partial = []
    for line in process.stdout:
        now, event = time.monotonic(), json.loads(line)
        if event["event"] == "partial":
            new = plain(event["words"])
            changed += sum(a != b for a, b in zip(partial, new)) + max(0, len(partial) - len(new))
            shown += len(new)
            partial = new
        elif event["event"] == "final":
            new = plain(event["words"])
            changed += sum(a != b for a, b in zip(partial, new))
            partial = partial[len(new):]
            stamps += [(now, w["end"]) for w in event["words"]]
            finals += event["words"]
        elif event["event"] == "done":
            done, end = event, now
    process.wait()
    return finals, shown, changed, stamps, done, end


def main():
    rest = sys.argv[1:]
    flags = rest[rest.index("--") + 1:] if "--" in rest else []
    binary, *files = rest[: rest.index("--")] if "--" in rest else rest
    command = [binary, "transcribe", "--json", *flags]
    for path in files:
        begin = time.monotonic()
        whole = json.loads(subprocess.check_output([*command, path]))
        alone = time.monotonic() - begin
        begin = time.monotonic()
        finals, shown, changed, stamps, done, end = play(command, path)
        # loading comes before the first sample: it is what the run is longer than the sound, but for the last words
        least = min(t - e for t, e in stamps) if stamps else 0.0
        delays = sorted(t - begin - e for t, e in stamps) or [0.0]
        a, b = plain(words_of(whole)), plain(words_of(done))
        wrong = sum(max(i2 - i1, j2 - j1) for op, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, False).get_opcodes() if op != "equal")
        print(
            f"{path}: {len(finals)} words, delay median {statistics.median(delays):.2f} s, 95% {delays[int(len(delays) * 0.95)]:.2f}, "
            f"max {delays[-1]:.2f}; partial words changed later {changed} of {shown}; "
            f"end of sound to transcript {end - begin - done['duration']:.2f} s (whole file at once {alone:.2f} s, start of the "
            f"program and loading in both); {wrong} of {len(a)} words differ (least delay {least - begin:.2f})"
        )


main()
