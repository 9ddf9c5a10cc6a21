// Operations on rows: norms with what follows them, rotary embedding and sums. A block has one row.
#include "common.cuh"

// h = x / sqrt(mean(x^2) + eps) * weight, (m, k), and the same in 8 bits where q is not null. Grid (m).
extern "C" __global__ void __launch_bounds__(256)
    rms_norm(const float* x, const float* weight, float eps, int k, float* h, int8_t* q, float2* scale) {
    __shared__ float reduce[32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x += (size_t)blockIdx.x * k;
    h += (size_t)blockIdx.x * k;
    float squares = 0.0f;
    for (int e = threadIdx.x; e < k; e += blockDim.x) squares += x[e] * x[e];
    const float by = rsqrtf(block_sum(squares, reduce) / k + eps);
    for (int u = warp; u < (k + 31) / 32; u += warps) {
        const int e = 32 * u + lane;
        const float v = e < k ? x[e] * by * weight[e] : 0.0f;
        if (e < k) h[e] = v;
        if (q) quantize_unit(v, q + (size_t)blockIdx.x * k + 32 * u, scale + (size_t)blockIdx.x * (k / 32) + u);
    }
}

// residual += norm(x), (m, k): what follows attention and feed-forward of Gemma. Grid (m).
extern "C" __global__ void __launch_bounds__(256)
    add_norm(const float* x, const float* weight, float eps, int k, float* residual) {
    __shared__ float reduce[32];
    x += (size_t)blockIdx.x * k;
    residual += (size_t)blockIdx.x * k;
    float squares = 0.0f;
    for (int e = threadIdx.x; e < k; e += blockDim.x) squares += x[e] * x[e];
    const float by = rsqrtf(block_sum(squares, reduce) / k + eps);
    for (int e = threadIdx.x; e < k; e += blockDim.x) residual[e] += x[e] * by * weight[e];
}

// x in 8 bits, (m, k), k a multiple of 32. Grid (m).
extern "C" __global__ void __launch_bounds__(256) quantize(const float* x, int k, int8_t* q, float2* scale) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const size_t row = blockIdx.x;
    for (int u = warp; u < k / 32; u += warps)
        quantize_unit(x[row * k + 32 * u + lane], q + row * k + 32 * u, scale + row * (k / 32) + u);
}

// logits = cap * tanh(logits / cap)
extern "C" __global__ void __launch_bounds__(256) softcap(float* x, int n, float cap) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i] = cap * tanhf(x[i] / cap);
}

// out[i] = x[index[i]], rows of k; zeros where x, (most, k), has no such row. Grid (m).
extern "C" __global__ void __launch_bounds__(256) gather(const float* x, int most, const int* index, int k, float* out) {
    const int row = index[blockIdx.x];
    const bool there = row >= 0 && row < most;
    for (int e = threadIdx.x; e < k; e += blockDim.x) out[(size_t)blockIdx.x * k + e] = there ? x[(size_t)row * k + e] : 0.0f;
}
