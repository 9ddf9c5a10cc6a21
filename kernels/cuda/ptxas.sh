#!/usr/bin/env bash
# ptxas.sh: compiles every kernel for every device and writes what ptxas made of it to ptxas.txt: registers, shared memory, stack and
# spills, a line for each kernel and device. `--check` compares with that file instead: other spills are a failure (they cost a hot
# kernel memory traffic), other registers or kernels are only told. The toolkit is toolkit.sh's, whatever is installed: another
# version would give another table. Without a toolkit and a network to load one: exit code 3.
set -euo pipefail
cd "$(dirname "$0")"
case ${1:-} in "" | --check) ;; *) echo "usage: ptxas.sh [--check]" >&2 && exit 2 ;; esac
toolkit=${DREAMSEED_CUDA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dreamseed-cuda}/toolkit
if ! ./toolkit.sh "$toolkit"; then
  echo "ptxas.sh: no CUDA toolkit in $toolkit, and none can be loaded (pip's packages nvidia-cuda-nvcc and others, see toolkit.sh)" >&2
  exit 3
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# the devices that build.rs compiles for, the newest first: they take longest
devices=$(sed -n 's/^const REAL: .*= \[\(.*\)\];/\1/p' ../build.rs | tr -d ' ' | tr , '\n' | sort -rn)
[ -n "$devices" ] || { echo "ptxas.sh: no devices found in build.rs (const REAL)" >&2 && exit 1; }
export toolkit scratch
compile() {
  local file=$1 device=$2 name
  name=$scratch/$(basename "$file" .cu).$device
  # the options of build.rs
  "$toolkit/bin/nvcc" -std=c++20 -O3 -lineinfo -cubin -arch="sm_$device" -Xptxas -v -o "$name.cubin" "$file" >"$name.log" 2>&1 ||
    { cat "$name.log" >&2; return 255; }
  rm -f "$name.cubin"
}
export -f compile
for device in $devices; do printf '%s\n' *.cu | sed "s/$/ $device/"; done |
  xargs -P "$(nproc)" -L 1 bash -c 'compile "$@"' _

# kernel, device, registers, shared, stack, spill stores, spill loads; functions that are not inlined are named with their file, and have
# no registers of their own
for log in "$scratch"/*.log; do
  name=$(basename "$log" .log)
  awk -v file="${name%.*}" -v device="sm_${name##*.}" '
    /Compiling entry function/ { split($0, part, "\047"); entry = part[2]; entries[entry] = 1 }
    /Function properties for/ { name = $NF; known[name] = 1; registers[name] = "-"; shared[name] = 0 }
    /bytes stack frame/ { stack[name] = $1; stores[name] = $5; loads[name] = $9 }
    / Used [0-9]+ registers/ {
      match($0, /Used [0-9]+/); registers[entry] = substr($0, RSTART + 5, RLENGTH - 5)
      if (match($0, /[0-9]+ bytes smem/)) shared[entry] = substr($0, RSTART, RLENGTH) + 0
    }
    END { for (n in known) print (n in entries ? n : file ":" n), device, registers[n], shared[n], stack[n], stores[n], loads[n] }
  ' "$log"
done | LC_ALL=C sort -k1,1 -k2,2V >"$scratch/rows"
[ -s "$scratch/rows" ] || { echo "ptxas.sh: ptxas told nothing" >&2 && exit 1; }
{
  echo "# Made by ptxas.sh with $("$toolkit/bin/nvcc" --version | tail -1). Bytes; shared memory is the static part."
  echo "kernel device registers shared stack spill-stores spill-loads"
  cat "$scratch/rows"
} | awk '/^#/ { print; next } { printf "%-27s %-7s %9s %7s %6s %13s %12s\n", $1, $2, $3, $4, $5, $6, $7 }' >"$scratch/table"
spilling=$(awk '$6 + $7 > 0 { printf " %s on %s (%d bytes stored, %d loaded)", $1, $2, $6, $7 }' "$scratch/rows")

if [ "${1:-}" != --check ]; then
  cp "$scratch/table" ptxas.txt
  echo "kernels/cuda/ptxas.txt: $(wc -l <"$scratch/rows") lines; spills:${spilling:- none}"
  exit
fi
awk '
  FNR == NR { if ($2 ~ /^sm_/) { usage[$1, $2] = $3 " registers, " $4 " bytes shared, " $5 " stack"; spill[$1, $2] = $6 " stored, " $7 " loaded" } next }
  {
    now = $3 " registers, " $4 " bytes shared, " $5 " stack"; spills = $6 " stored, " $7 " loaded"; key = $1 SUBSEP $2; seen[key] = 1
    before = key in spill ? spill[key] : "0 stored, 0 loaded"
    if (spills != before) { print "SPILL " $1 " on " $2 ": " spills " bytes; ptxas.txt has " before; bad = 1 }
    if (!(key in usage)) { print "new: " $1 " on " $2 ": " now; stale = 1 }
    else if (now != usage[key]) { print "changed: " $1 " on " $2 ": " now "; ptxas.txt has " usage[key]; stale = 1 }
  }
  END {
    for (key in usage) if (!(key in seen)) { split(key, part, SUBSEP); print "gone: " part[1] " on " part[2]; stale = 1 }
    if (bad) print "ptxas.sh: spills are not those of kernels/cuda/ptxas.txt. Mend the kernel; where the new table is meant, run kernels/cuda/ptxas.sh"
    else if (stale) print "ptxas.sh: no other spills; kernels/cuda/ptxas.txt is of older sources: run kernels/cuda/ptxas.sh"
    else print "ptxas.sh: as in kernels/cuda/ptxas.txt"
    exit bad
  }' ptxas.txt "$scratch/rows"
