#!/usr/bin/env bash
# toolkit.sh DEST: a compile-only CUDA 13.0 toolkit (nvcc, ptxas, headers) from Python wheels, for machines without one. About 105 MB
# to load, 300 MB on disk. Then: CUDA_HOME=DEST cargo build --release --features cuda
set -euo pipefail
dest=${1:?where to? usage: toolkit.sh DEST}
[ -x "$dest/bin/nvcc" ] && exit
mkdir -p "$(dirname "$dest")"
scratch=$(mktemp -d "$dest.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
python3 -m pip install --quiet --no-deps --only-binary=:all: --target "$scratch" \
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
ln -sfn lib "$scratch/nvidia/cu13/lib64"
rm -rf "$dest"
mv "$scratch/nvidia/cu13" "$dest"
"$dest/bin/nvcc" --version | tail -1
