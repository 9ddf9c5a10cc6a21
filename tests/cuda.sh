#!/usr/bin/env bash
# What runs on GPUs, without one: kernels against their references, decoders on one device, over two and cut over two, Whisper, vision, pose and face
# and the engine's texts against the CPU's, on PTX for sm_80, and some faults of the driver. `--all`: on PTX for sm_120 with the warps in
# reverse order and three devices too, all faults, the real SmolLM2 where DREAMSEED_CUDA_MODEL names its file, and a real Whisper where
# DREAMSEED_CUDA_WHISPER names its folder and DREAMSEED_CUDA_SOUND a WAV file (16 bits, 16 kHz, mono) of which it hears the beginning.
# Real networks of pose and face run where they were fetched: the small ones, with `--all` the others too (DREAMSEED_CUDA_NETS: their
# folder, default: ~/.cache/dreamseed/models).
#
# DREAMSEED_CUDA_TOOLS names a folder with `ptxemu`, a crate that stands in for the driver and interprets PTX (default: ../shared/cuda).
# The toolkit and the emulator are kept in DREAMSEED_CUDA_CACHE (default: ~/.cache/dreamseed-cuda). With a GPU:
# `DREAMSEED_CUDA_TEST=1 cargo test --release -p dreamseed-kernels --features cuda cuda::` runs the same tests on it.
set -euo pipefail
all=$([ "${1:-}" = "--all" ] && echo yes || true)
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
# the emulator has no graphs, runs everything at once and never fails: a double of the driver in front of it does it as a driver does
cp -f "$cache/emulator/release/libptxemu.so" "$cache/lib/libptxemu.so"
rm -f "$cache/lib/libcuda.so.1"
cc -std=gnu11 -O2 -Wall -Werror -shared -fPIC -o "$cache/lib/libcuda.so.1" tests/cuda/driver.c \
  -L "$cache/lib" -Wl,--no-as-needed -lptxemu -Wl,-rpath,'$ORIGIN' -lpthread -ldl

# NCCL's double lies apart, so that it can be left out
mkdir -p "$cache/nccl"
cc -std=gnu11 -O2 -Wall -Werror -shared -fPIC -o "$cache/nccl/libnccl.so.2" tests/cuda/nccl.c -ldl

export CUDA_HOME="$cache/toolkit" DREAMSEED_CUDA_CODE=ptx DREAMSEED_CUDA_TEST=1 CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
unset NVCC
cargo test --release --locked --workspace --features cuda --lib --no-run
for mode in "80 0 2" ${all:+"120 1 3"}; do
  read -r capability reverse devices <<<"$mode"
  echo "=== sm_$capability, warps in reverse: $reverse, $devices devices"
  LD_LIBRARY_PATH="$cache/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" FAKECUDA_CC=$capability FAKECUDA_REVERSE=$reverse FAKECUDA_DEVICES=$devices \
    cargo test --quiet --release --locked --workspace --features cuda --lib cuda::
done

# faults: the pass that meets one fails with a clear error, the next one works (unless the device is lost), and no memory is left behind
ignored() { cargo test --quiet --release --locked --workspace --features cuda --lib -- --exact --ignored "$1"; }
models() { ignored "decoder::cuda::tests::$1"; }
whisper() { ignored "whisper::cuda::tests::$1"; }
export LD_LIBRARY_PATH="$cache/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" FAKECUDA_SMS=4
for fault in cuMemAlloc_v2:60:2 cuGraphLaunch:2:700 ${all:+cuMemAlloc_v2:3:2 cuMemcpyHtoDAsync_v2:8:1 cuLaunchKernel:9:1 \
  cuGraphLaunch:3:1 cuStreamSynchronize:12:700 cuMemcpyDtoHAsync_v2:1:700 cuGraphInstantiateWithFlags:2:1}; do
  echo "=== $fault"
  DREAMSEED_DRIVER_FAULT=$fault models a_fault_fails_what_met_it_and_leaves_nothing_behind
done
for fault in cuMemAlloc_v2:5:2 cuGraphLaunch:2:700 ${all:+cuMemAlloc_v2:2:2 cuMemAlloc_v2:9:2 cuGraphLaunch:4:1 cuLaunchKernel:2:1 \
  cuMemcpyHtoDAsync_v2:7:1 cuMemcpyDtoHAsync_v2:2:700 cuStreamSynchronize:3:700 cuGraphInstantiateWithFlags:2:1}; do
  echo "=== $fault, convolutional networks"
  DREAMSEED_DRIVER_FAULT=$fault ignored graph::tests::cuda::a_fault_fails_what_met_it_and_leaves_nothing_behind
done
for fault in cuGraphLaunch:9:700 cuMemcpyDtoHAsync_v2:5:1 ${all:+cuMemAlloc_v2:30:2 cuGraphLaunch:7:1 cuStreamSynchronize:90:700 \
  cuGraphInstantiateWithFlags:2:2}; do
  echo "=== $fault, texts at once"
  DREAMSEED_DRIVER_FAULT=$fault ignored llm::tests::cuda::a_fault_fails_only_those_whom_it_met
done
for fault in cuMemAlloc_v2:70:2 cuLaunchKernel:25:700 cuGraphLaunch:3:700 ${all:+cuGraphInstantiateWithFlags:1:1 cuMemAlloc_v2:3:2 cuMemAlloc_v2:140:2 cuMemcpyHtoDAsync_v2:60:1 \
  cuLaunchKernel:9:1 cuLaunchKernel:90:1 cuStreamSynchronize:130:700 cuMemcpyDtoHAsync_v2:1:700 cuMemcpyDtoHAsync_v2:4:1}; do
  echo "=== $fault, Whisper"
  DREAMSEED_DRIVER_FAULT=$fault whisper a_fault_fails_what_met_it_and_leaves_nothing_behind
done
for fault in cuMemAlloc_v2@1:25:2 cuGraphLaunch@1:2:700 ${all:+cuMemAlloc_v2@1:70:2 cuMemcpyDtoHAsync_v2@1:1:700 \
  cuStreamWaitEvent@1:1:700 cuStreamCreate@1:2:700}; do
  echo "=== $fault"
  FAKECUDA_DEVICES=2 DREAMSEED_DRIVER_FAULT=$fault models a_fault_of_the_second_device_is_told_and_frees_the_first
done
echo "=== a lost second GPU, texts at once"
FAKECUDA_DEVICES=2 DREAMSEED_DRIVER_FAULT=cuGraphLaunch@1:5:700 \
  ignored llm::tests::cuda::a_lost_second_gpu_is_told_to_all_and_leaves_nothing_behind
echo "=== what a step copies"
copies=$(mktemp)
trap 'rm -f "$copies"' EXIT
for devices in 1 2; do
  FAKECUDA_DEVICES=$devices DREAMSEED_DRIVER_COPIES=$copies models steps::a_step_that_goes_on_is_told_nothing_and_tells_its_tokens
done
echo "=== GPUs of little memory"
FAKECUDA_DEVICES=3 DREAMSEED_DRIVER_MEMORY=150000000 ignored llm::tests::cuda::a_model_takes_as_many_gpus_as_it_needs
DREAMSEED_DRIVER_MEMORY=136400000 ignored llm::tests::cuda::a_session_takes_the_positions_that_there_are
DREAMSEED_DRIVER_MEMORY=150000000 ignored llm::tests::cuda::a_small_gpu_holds_what_fits
DREAMSEED_DRIVER_MEMORY=120000000 ignored llm::tests::cuda::a_small_gpu_holds_what_fits
echo "=== drivers and devices that will not do"
DREAMSEED_DRIVER_VERSION=11080 DREAMSEED_CUDA_REFUSAL="update the driver" models a_device_that_will_not_do_is_told
FAKECUDA_CC=75 DREAMSEED_CUDA_REFUSAL="compute capability 7.5" models a_device_that_will_not_do_is_told
FAKECUDA_NO_DEVICE=1 DREAMSEED_CUDA_REFUSAL="0 found" models a_device_that_will_not_do_is_told

echo "=== sums over GPUs"
nccl() { FAKECUDA_DEVICES=${members:-3} LD_LIBRARY_PATH="$cache/nccl:$LD_LIBRARY_PATH" ignored "cuda::nccl::tests::$1"; }
nccl what_does_not_fit_is_refused
for members in 2 3 5; do
  nccl sums_are_those_of_the_members
  nccl parts_are_gathered_and_graphs_of_all_run_together
done
DREAMSEED_NCCL_FAULT=ncclCommInitAll:1:2 DREAMSEED_NCCL_REFUSAL="connect the GPUs: unhandled system error" nccl a_library_that_will_not_do_is_told
DREAMSEED_NCCL_FAULT=ncclAllReduce:2:1 DREAMSEED_NCCL_REFUSAL="sum: unhandled cuda error" nccl a_library_that_will_not_do_is_told
DREAMSEED_NCCL_FAULT=ncclCommGetAsyncError:1:6 DREAMSEED_NCCL_REFUSAL="go on: remote process exited" nccl a_library_that_will_not_do_is_told
DREAMSEED_NCCL_VERSION=2804 DREAMSEED_NCCL_REFUSAL="its version is 2804" nccl a_library_that_will_not_do_is_told
FAKECUDA_DEVICES=2 DREAMSEED_NCCL_REFUSAL="NCCL is not usable" ignored cuda::nccl::tests::a_library_that_will_not_do_is_told

echo "=== every layer cut over GPUs"
over() { FAKECUDA_DEVICES=$1 LD_LIBRARY_PATH="$cache/nccl:$LD_LIBRARY_PATH" "${@:2}"; }
cut() { over "$1" models "tensor::$2"; }
texts() { over "$1" ignored "llm::tests::cuda::tensor::$2"; }
uncut=what_cannot_be_cut_over_gpus_is_an_error
DREAMSEED_CUDA_FAMILIES=$all cut 2 cut_layers_decode_as_on_one_device
texts 2 gpus_that_share_each_layer_write_what_one_processor_writes
cut 2 what_cannot_be_cut_over_devices_is_refused
DREAMSEED_DRIVER_MEMORY=300000000,200000000 DREAMSEED_CUDA_REFUSAL="GPU 1 is" cut 2 what_cannot_be_cut_over_devices_is_refused
FAKECUDA_DEVICES=2 DREAMSEED_CUDA_REFUSAL="NCCL is not usable" models tensor::what_cannot_be_cut_over_devices_is_refused
DREAMSEED_CUDA_REFUSAL="heads of keys and values cannot be divided evenly over 3 parts" texts 3 $uncut
if [ -n "$all" ]; then
  DREAMSEED_CUDA_FAMILIES=yes cut 4 cut_layers_decode_as_on_one_device
  FAKECUDA_REVERSE=1 FAKECUDA_CC=120 cut 2 cut_layers_of_quantized_models_decode_as_on_one_device
  DREAMSEED_DRIVER_MEMORY=300000000,200000000 DREAMSEED_CUDA_REFUSAL="equal GPUs alone" texts 2 $uncut
  DREAMSEED_DRIVER_MEMORY=390000000 DREAMSEED_CUDA_REFUSAL="does not fit" texts 2 $uncut
  FAKECUDA_DEVICES=2 DREAMSEED_CUDA_REFUSAL="NCCL is not usable" ignored llm::tests::cuda::tensor::$uncut
fi
# one part fails while the others wait for it: the driver or NCCL, and what is told of a device that is lost
part() { cut 2 a_fault_of_one_part_ends_all_and_leaves_nothing_behind; }
for fault in cuMemAlloc_v2@1:60:2 cuGraphLaunch@1:2:1 ${all:+cuLaunchKernel@1:9:1 cuLaunchKernel@1:150:1 cuMemAlloc_v2@1:20:2 \
  cuStreamBeginCapture_v2@1:1:1 cuGraphInstantiateWithFlags@1:2:2 cuMemcpyDtoHAsync_v2@1:1:1 kernel@0:30:1}; do
  echo "=== $fault"
  DREAMSEED_DRIVER_FAULT=$fault part
done
for fault in kernel@1:40:700 ${all:+kernel@0:40:700 kernel@1:170:719 cuGraphLaunch@1:1:700 cuStreamQuery@1:1:700}; do
  echo "=== $fault"
  device=${fault#*@}
  DREAMSEED_DRIVER_FAULT=$fault DREAMSEED_CUDA_REFUSAL="GPU ${device%%:*} is lost" part
done
for fault in ncclGroupEnd:3:3 ${all:+ncclAllReduce:5:1 ncclAllReduce:40:1 ncclAllGather:2:1 ncclGroupEnd:20:3 ncclCommGetAsyncError:3:6 \
  ncclCommInitAll:2:2}; do
  echo "=== $fault"
  DREAMSEED_NCCL_FAULT=$fault part
done
for fault in kernel@1:300:700 ${all:+cuGraphLaunch@1:5:700 cuGraphLaunch@1:7:1}; do
  echo "=== $fault, texts at once"
  DREAMSEED_DRIVER_FAULT=$fault texts 2 a_part_that_fails_is_told_and_leaves_nothing_behind
done
if [ -n "$all" ] && [ -n "${DREAMSEED_CUDA_MODEL:-}" ]; then texts 3 a_real_model_takes_what_its_header_says; fi

nets=${DREAMSEED_CUDA_NETS:-${XDG_CACHE_HOME:-$HOME/.cache}/dreamseed/models}
if [ -d "$nets" ]; then
  echo "=== pose and face give the processor's outputs"
  DREAMSEED_CUDA_NETS=$nets ${all:+env DREAMSEED_CUDA_ALL=1} cargo test --quiet --release --locked --workspace --features cuda --lib -- \
    --exact --ignored --nocapture graph::tests::cuda::real_networks_give_the_processors_outputs
else
  echo "skipped: pose and face; there is no $nets"
fi
if [ -n "$all" ] && [ -z "${DREAMSEED_CUDA_MODEL:-}" ]; then
  echo "skipped: SmolLM2; DREAMSEED_CUDA_MODEL names no file of it"
elif [ -n "$all" ]; then
  echo "=== SmolLM2 writes the same tokens as on the processor"
  models a_real_model_writes_the_same_greedy_tokens
fi
if [ -n "$all" ] && [ -n "${DREAMSEED_CUDA_WHISPER:-}" ] && [ -n "${DREAMSEED_CUDA_SOUND:-}" ]; then
  echo "=== Whisper hears the same as on the processor"
  whisper a_real_model_hears_the_same
elif [ -n "$all" ]; then
  echo "skipped: Whisper; DREAMSEED_CUDA_WHISPER names no folder of it, or DREAMSEED_CUDA_SOUND no WAV file"
fi
