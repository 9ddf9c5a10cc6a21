// What the layers of convolutional networks share: pictures are NHWC with batch 1, a thread or a warp makes one output or a few.
#pragma once
#include "common.cuh"

// Which input pixels an output pixel sees, as `cpu::conv::Window`.
struct Window {
    int h, w, c;   // input
    int oh, ow, n; // output
    int kh, kw, sh, sw, dh, dw; // kernel, stride, dilation
    int top, left; // padding
};

struct Act {
    int kind; // 0: nothing, 1: clamped to lo..hi, 2: slopes of negative values
    float lo, hi;
    const float* slopes; // (channels)
};

// What happens to a value before it is stored: after(before(value) + residual).
struct Tail {
    const float* residual; // (pixels, channels) or null
    int channels;          // of the residual; further ones of the output have none
    Act before, after;
};

__device__ __forceinline__ float activate(const Act& act, float v, int channel) {
    if (act.kind == 1) return fminf(fmaxf(v, act.lo), act.hi);
    if (act.kind == 2) return fmaxf(v, 0.0f) + act.slopes[channel] * fminf(v, 0.0f);
    return v;
}

__device__ __forceinline__ float finish(const Tail& tail, float v, int pixel, int channel) {
    v = activate(tail.before, v, channel);
    if (tail.residual && channel < tail.channels) v += tail.residual[(size_t)pixel * tail.channels + channel];
    return activate(tail.after, v, channel);
}

// Index of this thread among all.
__device__ __forceinline__ int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }
