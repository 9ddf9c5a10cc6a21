#!/usr/bin/env python3
"""How well `dreamseed transcribe --expect` finds words that were left out, added, changed and mispronounced, and `dreamseed coach` a
flattened melody.

Three questions, each with a known answer:

1. Real speech, changed texts. The recordings are fixed; the expected text is changed instead: a word put in is a word that the
   speaker left out, a word taken away one that was added, a word replaced one that was changed. The words put in fit
   the sentence, so that a language model alone would believe them.
2. Synthetic speech (espeak-ng), wrong phonemes: words whose sounds were replaced by those of a learner, against the same words
   as they should be.
3. Real speech beside itself with another range of pitch (`--melody WAV`, made with Praat: `pip install praat-parselmouth`): the score
   for intonation of the learner against the untouched reading, and whether the melody is among its measures.

`--speech DIR` takes WAV files with a text of the same name (`jfk.wav`, `jfk.txt`: what is said, a line). Prints precision and
recall of each kind, for the free recognition alone and for the joint judgement, and stores the words with their measures by `--out`.
"""
import argparse
import json
import pathlib
import random
import re
import subprocess
import tempfile

FITTING = "really very dear just also then now always even still only never well perhaps indeed quite own good other such".split()
NEAR = {
    "country": "county", "fellow": "follow", "ask": "task", "what": "that", "not": "now", "can": "could", "man": "men",
    "woman": "women", "young": "younger", "power": "tower", "them": "him", "himself": "herself", "made": "make", "been": "be",
    "rather": "other", "cold": "bold", "still": "till", "more": "most", "might": "may", "have": "had", "leisure": "pleasure",
    "selfish": "shellfish", "disposed": "proposed", "consider": "considered", "much": "such", "respectable": "respected",
    "he": "she", "was": "is", "your": "our", "you": "we", "for": "from", "do": "to", "so": "though", "my": "by",
}
# word, as it should be in espeak's phonemes is the word itself; the learner's sounds
WRONG = [
    ("I think we should leave the house before seven.", "think", "s'INk"), ("I think we should leave the house before seven.", "leave", "l'Iv"),
    ("The weather was very cold last winter.", "very", "b'Eri"), ("The weather was very cold last winter.", "weather", "w'Ed3"),
    ("Please give the red book to your brother.", "red", "l'Ed"), ("Please give the red book to your brother.", "book", "f'Uk"),
    ("She sells fresh fish at the little market.", "fresh", "fl'ES"), ("She sells fresh fish at the little market.", "market", "m'a:lkIt"),
    ("We walked along the river for three hours.", "river", "l'Ib3"), ("We walked along the river for three hours.", "three", "tr'i:"),
    ("My father works at a large hospital.", "father", "p'a:d3"), ("My father works at a large hospital.", "large", "l'a:z"),
    ("The children were playing in the garden.", "playing", "p'eIjIN"), ("The children were playing in the garden.", "garden", "k'a:tn"),
    ("Can you tell me where the station is.", "station", "s'u:tIS@n"), ("Can you tell me where the station is.", "where", "b'e@"),
]


def normal(word):
    return re.sub(r"[\W_]", "", word).lower()


def altered(words, rng):
    """The expected text, what became of each of its words, and the words that count as added."""
    expected, truth, added, last = [], [], [], -2
    for i, word in enumerate(words):
        draw = rng.random()
        if i - last < 3:
            draw = 1.0  # changes stay apart, so that each has one answer
        if draw < 0.07:
            put = rng.choice(FITTING)
            if normal(put) not in (normal(word), normal(words[i - 1])):
                expected.append(put), truth.append("omitted")
                last = i
            expected.append(word), truth.append("said")
        elif draw < 0.13 and normal(word) not in (normal(words[i - 1]), normal(words[min(i + 1, len(words) - 1)])):
            added.append(normal(word))
            last = i
        elif draw < 0.22 and normal(word) in NEAR:
            expected.append(NEAR[normal(word)]), truth.append("substituted")
            last = i
        else:
            expected.append(word), truth.append("said")
    return " ".join(expected), truth, added


def judged(args, wav, text):
    command = [args.binary, "transcribe", str(wav), "--model", args.model, "--expect", text, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Count:
    def __init__(self):
        self.hit = self.claimed = self.there = 0

    def row(self, name):
        precision = self.hit / self.claimed if self.claimed else 1.0
        recall = self.hit / self.there if self.there else 1.0
        print(f"  {name:12} precision {precision:.3f} ({self.hit}/{self.claimed})  recall {recall:.3f} ({self.hit}/{self.there})")


def changed_texts(args, kept):
    rng = random.Random(1)
    kinds = {k: (Count(), Count()) for k in ("omitted", "substituted", "inserted", "wrong")}
    words_seen = 0
    for wav in sorted(args.speech.glob("*.wav")):
        words = wav.with_suffix(".txt").read_text().split()
        for _ in range(args.texts):
            text, truth, added = altered(words, rng)
            got = judged(args, wav, text)["pronunciation"]["words"]
            expected = [w for w in got if w["expected"] is not None]
            assert len(expected) == len(truth), (text, len(expected), len(truth))
            words_seen += len(truth)
            for word, true in zip(expected, truth):
                kept.append({"clip": wav.stem, "truth": true, **word})
                free = "said" if word["heard"] and normal(word["heard"]) == normal(word["expected"]) else \
                    "substituted" if word["heard"] else "omitted"
                joint = "said" if word["kind"] in ("correct", "unclear") else word["kind"]
                for claimed, which in ((free, 0), (joint, 1)):
                    for kind in ("omitted", "substituted"):
                        count = kinds[kind][which]
                        count.there += true == kind
                        count.claimed += claimed == kind
                        count.hit += true == kind == claimed
                    count = kinds["wrong"][which]
                    count.there += true != "said"
                    count.claimed += claimed != "said"
                    count.hit += true != "said" and claimed != "said"
            left = list(added)
            for word in (w for w in got if w["kind"] == "inserted"):
                for which in (0, 1):
                    count = kinds["inserted"][which]
                    count.claimed += 1
                    count.hit += normal(word["heard"] or "") in left
                if normal(word["heard"] or "") in left:
                    left.remove(normal(word["heard"]))
            for which in (0, 1):
                kinds["inserted"][which].there += len(added)
    print(f"changed texts: {words_seen} expected words")
    for which, name in ((0, "free recognition alone"), (1, "joint judgement")):
        print(f" {name}")
        for kind, counts in kinds.items():
            counts[which].row(kind)


def wrong_sounds(args, kept):
    with tempfile.TemporaryDirectory() as folder:
        scores = {"right": [], "wrong": []}
        found = false = right = 0
        for i, (text, word, phonemes) in enumerate(WRONG):
            for voice in args.voices:
                for state in ("right", "wrong"):
                    wav = pathlib.Path(folder) / "clip.wav"
                    spoken = text if state == "right" else re.sub(rf"\b{word}\b", f"[[{phonemes}]]", text)
                    subprocess.run(["espeak-ng", "-v", voice, "-s", "140", "-w", str(wav), spoken], check=True)
                    for w in judged(args, wav, text)["pronunciation"]["words"]:
                        if w["expected"] is None:
                            continue
                        target = normal(w["expected"]) == word
                        marked = w["kind"] != "correct"
                        kept.append({"clip": f"{voice}-{i}-{state}", "truth": state if target else "other", **w})
                        if target:
                            scores[state].append(w["word_gop"])
                            found += marked and state == "wrong"
                            false += marked and state == "right"
                            right += state == "right"
                        elif state == "right":
                            false += marked
                            right += 1
    pairs = [(r, w) for r in scores["right"] for w in scores["wrong"]]
    auc = sum((r > w) + 0.5 * (r == w) for r, w in pairs) / max(len(pairs), 1)
    print(f"wrong sounds: {found} of {len(scores['wrong'])} mispronounced words marked, {false} of {right} right ones marked; "
          f"word_gop ranks a right one above a wrong one in {auc:.3f} of all pairs")


def melody(args):
    import parselmouth
    from parselmouth.praat import call

    sound = parselmouth.Sound(str(args.melody))
    with tempfile.TemporaryDirectory() as folder:
        for share in (1.0, 0.7, 0.4, 0.0):
            manipulation = call(sound, "To Manipulation", 0.01, 75, 500)
            tier = call(manipulation, "Extract pitch tier")
            middle = call(sound.to_pitch(), "Get quantile", 0, 0, 0.5, "Hertz")
            call(tier, "Formula", f"{middle} * exp({share} * ln(self / {middle}))")
            call([manipulation, tier], "Replace pitch tier")
            wav = pathlib.Path(folder) / "learner.wav"
            call(manipulation, "Get resynthesis (overlap-add)").save(str(wav), "WAV")
            command = [args.binary, "coach", "--lab", "speech", "--audio", str(wav), "--reference", str(args.melody), "--no-llm", "--json"]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            scores = [e for e in map(json.loads, lines) if e["event"] == "score" and e["name"] == "intonation"]
            told = ", ".join(f"{s['value']:.1f} by {', '.join(s['measures'])}" for s in scores)
            print(f"melody at {share:.0%} of its range: intonation {told}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/dreamseed")
    parser.add_argument("--model", default="whisper-base")
    parser.add_argument("--speech", type=pathlib.Path, help="folder of WAV files with texts")
    parser.add_argument("--texts", type=int, default=8, help="changed texts a recording")
    parser.add_argument("--voices", nargs="*", default=["en-us", "en-gb+f3"], help="of espeak-ng; none leaves that question out")
    parser.add_argument("--melody", type=pathlib.Path, help="a WAV file of speech")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for every word with its measures")
    args = parser.parse_args()
    kept = []
    if args.speech:
        changed_texts(args, kept)
    if args.voices:
        wrong_sounds(args, kept)
    if args.melody:
        melody(args)
    if args.out:
        args.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
