#!/usr/bin/env bash
# The day a GPU is there: one command that says within ten minutes whether everything works on it and how fast.
#
#   benches/gpu.sh [OPTION..]         builds what is missing, and measures on this machine (--help lists the options)
#   benches/gpu.sh --bundle DIR       makes a folder to copy to a machine with a GPU; there `DIR/gpu.sh --run [OPTION..]` needs bash,
#                                     coreutils, python3 and the NVIDIA driver, neither Rust nor CUDA
#
# It runs each kernel, decoder and text against its reference on the device, decodes models of random weights (peers/synthetic.py makes
# them on the spot), replays graphs and launches them singly, times Whisper and pose, and compares the memory before and after. One table
# stands beside the plan's prediction, and beside llama.cpp where `llama-bench` is on the PATH; the result is kept in runs/ by date and
# device. A step that fails is shown, the others go on, and the exit code is 1. Where the build should not be for a real GPU
# (DREAMSEED_CUDA_CODE=ptx for an emulator), the environment says so as for `cargo build`.
set -euo pipefail
export PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v python3 >/dev/null || { echo "gpu.sh: python3 is not installed; it makes the models and the table" >&2 && exit 2; }

# in a bundle: everything is beside this script
if [ -x "$here/bin/dreamseed" ]; then
  [ "${1:-}" = --run ] && shift
  # the bundle's weights, unless others are named; what is fetched goes there too
  export DREAMSEED_HOME=${DREAMSEED_HOME:-$here/home}
  tests=()
  for test in "$here"/bin/test-*; do tests+=(--test "$(basename "$test" | sed s/test-//)=$test"); done
  exec python3 "$here/gpu.py" --binary "$here/bin/dreamseed" --commit "$(cat "$here/commit")" "${tests[@]}" "$@"
fi

cd "$here/.."
[ "${1:-}" = --run ] && shift
bundle=
if [ "${1:-}" = --bundle ]; then
  bundle=${2:?where to? usage: gpu.sh --bundle DIR}
  [ ! -e "$bundle" ] || { echo "gpu.sh: $bundle is there already; name a new folder" >&2 && exit 2; }
fi
target=${CARGO_TARGET_DIR:-target}
list=$target/gpu-tests # lines of NAME=PATH, of the last build
if command -v cargo >/dev/null; then
  cargo build --release --locked --features cuda
  cargo test --release --locked --workspace --features cuda --lib --no-run --message-format=json >"$list.json"
  python3 - "$list.json" >"$list" <<'PYTHON'
import json, sys
for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("executable") and message.get("profile", {}).get("test"):
        print(f"{message['target']['name'].removeprefix('dreamseed_')}={message['executable']}")
PYTHON
  rm -f "$list.json"
elif [ -x "$target/release/dreamseed" ] && [ -s "$list" ]; then
  echo "gpu.sh: no cargo here: the binaries of the last build are used" >&2
else
  echo "gpu.sh: neither cargo nor an earlier build is here; build where cargo is, with --bundle, and copy the folder" >&2
  exit 2
fi
mapfile -t tests <"$list"
[ ${#tests[@]} -gt 0 ] || { echo "gpu.sh: cargo named no test binaries" >&2 && exit 1; }

if [ -z "$bundle" ]; then
  exec python3 "$here/gpu.py" --binary "$target/release/dreamseed" "${tests[@]/#/--test=}" "$@"
fi

mkdir -p "$bundle/bin" "$bundle/home/models"
cp benches/gpu.sh benches/gpu.py benches/peers/common.py benches/peers/synthetic.py LICENSE-MIT LICENSE-APACHE THIRD_PARTY.md "$bundle/"
git describe --always --dirty >"$bundle/commit" 2>/dev/null || echo unknown >"$bundle/commit"
strip -o "$bundle/bin/dreamseed" "$target/release/dreamseed"
for test in "${tests[@]}"; do strip -o "$bundle/bin/test-${test%%=*}" "${test#*=}"; done
# small weights that are on this machine; Whisper is too large, and is fetched or named there
for model in blazepose-detector blazepose-full sample-speech sample-portrait; do
  from=${DREAMSEED_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/dreamseed}/models/$model
  if [ -d "$from" ]; then cp -a "$from" "$bundle/home/models/"; else echo "gpu.sh: $model is not on this machine and left out (dreamseed pull $model)" >&2; fi
done
size=$(tar -C "$bundle" -cf - . | gzip -6 | wc -c)
echo "$bundle: $(du -sm "$bundle" | cut -f1) MiB, $((size >> 20)) MiB compressed; on the machine with the GPU: $(basename "$bundle")/gpu.sh --run"
[ "$size" -le $((60 << 20)) ] || { echo "gpu.sh: the bundle is over 60 MiB compressed" >&2 && exit 1; }
