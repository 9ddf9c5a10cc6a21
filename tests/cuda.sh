#!/usr/bin/env bash
# The CUDA kernels against their references, without a GPU: on PTX for sm_80, and for sm_120 with the warps in reverse order.
#
# DREAMSEED_CUDA_TOOLS names a folder with `ptxemu`, a crate that stands in for the driver and interprets PTX (default: ../shared/cuda).
# The toolkit and the emulator are kept in DREAMSEED_CUDA_CACHE (default: ~/.cache/dreamseed-cuda). With a GPU:
# `DREAMSEED_CUDA_TEST=1 cargo test --release -p dreamseed-kernels --features cuda cuda::` runs the same tests on it.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${DREAMSEED_CUDA_TOOLS:-../shared/cuda}
cache=${DREAMSEED_CUDA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dreamseed-cuda}
if [ ! -d "$tools/ptxemu" ]; then
  echo "no emulator in $tools: set DREAMSEED_CUDA_TOOLS; nothing was tested"
  exit 1
fi
mkdir -p "$cache/lib"
kernels/cuda/toolkit.sh "$cache/toolkit"
cargo build --quiet --release --manifest-path "$tools/ptxemu/Cargo.toml" --target-dir "$cache/emulator"
# the emulator has no graphs and never fails: a double of the driver in front of it does both
cp -f "$cache/emulator/release/libptxemu.so" "$cache/lib/libptxemu.so"
rm -f "$cache/lib/libcuda.so.1"
cc -std=gnu11 -O2 -Wall -Werror -shared -fPIC -o "$cache/lib/libcuda.so.1" tests/cuda/driver.c \
  -L "$cache/lib" -Wl,--no-as-needed -lptxemu -Wl,-rpath,'$ORIGIN' -lpthread -ldl

export CUDA_HOME="$cache/toolkit" DREAMSEED_CUDA_CODE=ptx DREAMSEED_CUDA_TEST=1 CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
unset NVCC
cargo test --release --locked -p dreamseed-kernels -p dreamseed-models --features cuda --lib --no-run
for mode in "80 0" "120 1"; do
  read -r capability reverse <<<"$mode"
  echo "=== sm_$capability, warps in reverse: $reverse"
  LD_LIBRARY_PATH="$cache/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" FAKECUDA_CC=$capability FAKECUDA_REVERSE=$reverse \
    cargo test --quiet --release --locked -p dreamseed-kernels -p dreamseed-models --features cuda --lib cuda::
done
