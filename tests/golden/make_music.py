#!/usr/bin/env python3
"""Writes models/music/librosa.json: what librosa makes of sounds that models/music/tests.rs makes in the same way.

    pip install librosa==0.11.0 && python3 tests/golden/make_music.py models/music/librosa.json

librosa gets the same 16 kHz samples and the same parameters (n_fft 1536, hop 384); everything else is its default, but that the
beats are tracked on the mean onset strength, the default of `onset_strength`.
"""
import json
import math
import sys

import librosa
import numpy as np

RATE, WINDOW, HOP, SECONDS = 16000, 1536, 384, 16


class Noise:
    """xorshift64, uniform in -1..1."""

    def __init__(self):
        self.state = 0x9E3779B97F4A7C15

    def next(self):
        mask = (1 << 64) - 1
        s = self.state
        s ^= (s << 13) & mask
        s ^= s >> 7
        s ^= (s << 17) & mask
        self.state = s
        return (s >> 11) / (1 << 52) - 1.0


def sound(hits, hiss):
    """hits: (seconds, Hz or 0 for noise, decay in seconds, amplitude); hiss: amplitude of noise all along."""
    x, noise = np.zeros(SECONDS * RATE), Noise()
    for at, hz, decay, amplitude in hits:
        first = math.ceil(at * RATE)
        for i in range(first, min(first + int(6 * decay * RATE), len(x))):
            t = i / RATE - at
            carrier = math.sin(2 * math.pi * hz * t) if hz else noise.next()
            x[i] += amplitude * math.exp(-t / decay) * carrier
    for i in range(len(x)):
        x[i] += hiss * noise.next()
    return x.astype(np.float32)


def clicks(bpm):
    return [(0.1 + 60 / bpm * k, 1000.0, 0.01, 0.5) for k in range(int((SECONDS - 0.2) * bpm / 60))]


def drums(bpm, off):
    """Kick on odd, noise on even beats, soft noise between at `off` of the beat."""
    hits = []
    for k in range(int((SECONDS - 0.2) * bpm / 60)):
        at = 0.1 + 60 / bpm * k
        hits.append((at, 0.0, 0.05, 0.4) if k % 2 else (at, 60.0, 0.08, 0.9))
        hits.append((at + off * 60 / bpm, 0.0, 0.01, 0.1))
    return hits


def chords(bpm):
    roots = [220.0, 261.63, 196.0, 246.94]
    beats = range(int((SECONDS - 0.2) * bpm / 60))
    return [(0.1 + 60 / bpm * k, roots[k // 4 % 4] * r, 0.3, 0.15) for k in beats for r in (1.0, 1.25, 1.5)]


def faster():
    hits, at = [], 0.1
    while at < SECONDS - 0.1:
        hits.append((at, 1000.0, 0.01, 0.5))
        at += 60 / (100 if at < 8 else 112)
    return hits


def main():
    sounds = {f"clicks {bpm}": (clicks(bpm), 0.0) for bpm in (60, 90, 120, 150, 180)}
    sounds |= {"drums 96": (drums(96, 0.5), 0.0), "drums 128": (drums(128, 0.5), 0.001), "swing 110": (drums(110, 2 / 3), 0.0)}
    sounds |= {"chords 80": (chords(80), 0.0), "faster": (faster(), 0.0), "noisy 130": (clicks(130), 0.05)}
    rows = {}
    for name, (hits, hiss) in sounds.items():
        pcm = sound(hits, hiss)
        onset = librosa.onset.onset_strength(y=pcm, sr=RATE, n_fft=WINDOW, hop_length=HOP)
        tempo, beats = librosa.beat.beat_track(onset_envelope=onset, sr=RATE, hop_length=HOP)
        rows[name] = {
            "samples": round(float(np.abs(pcm).astype(np.float64).sum()), 2),
            "tempo": round(float(np.atleast_1d(tempo)[0]), 4),
            "beats": [int(b) for b in beats],
            # the first five seconds
            "onset": [round(float(v), 4) for v in onset[:210]],
        }
        print(name, rows[name]["tempo"], len(beats), file=sys.stderr)
    with open(sys.argv[1], "w") as out:
        out.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in rows.items()) + "\n}\n")


if __name__ == "__main__":
    main()
