// Rows of transformers: layer norm, activations, learned places, the frames that a convolution over time sees, rows in parts.
#include "common.cuh"

// h = (x - mean) / sqrt(variance + eps) * gamma + beta, (m, k); in floats where h is not null, in 8 bits where q is not. Grid (m).
extern "C" __global__ void __launch_bounds__(256)
    layer_norm(const float* x, const float* gamma, const float* beta, float eps, int k, float* h, int8_t* q, float2* scale) {
    __shared__ float reduce[32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const size_t row = blockIdx.x;
    x += row * k;
    float sum = 0.0f;
    for (int e = threadIdx.x; e < k; e += blockDim.x) sum += x[e];
    const float mean = block_sum(sum, reduce) / k;
    float squares = 0.0f;
    for (int e = threadIdx.x; e < k; e += blockDim.x) squares += (x[e] - mean) * (x[e] - mean);
    const float by = rsqrtf(block_sum(squares, reduce) / k + eps);
    for (int u = warp; u < (k + 31) / 32; u += warps) {
        const int e = 32 * u + lane;
        const float v = e < k ? (x[e] - mean) * by * gamma[e] + beta[e] : 0.0f;
        if (h && e < k) h[row * k + e] = v;
        if (q) quantize_unit(v, q + row * k + 32 * u, scale + row * (k / 32) + u);
    }
}

// In the order of `Activation` in linear.rs.
__device__ __forceinline__ float activation(int kind, float v) {
    switch (kind) {
    case 1: return fmaxf(v, 0.0f);
    case 2: return fminf(fmaxf(v, 0.0f), 6.0f);
    case 3: return 0.5f * v * (1.0f + erff(v * 0.7071067811865476f));
    case 4: return 0.5f * v * (1.0f + tanhf(0.7978845608028654f * (v + 0.044715f * v * v * v)));
    case 5: return v / (1.0f + __expf(-v));
    case 6: return 1.0f / (1.0f + __expf(-v));
    case 7: return v * fminf(fmaxf(v + 3.0f, 0.0f), 6.0f) / 6.0f;
    }
    return v;
}

// x = activation(x), or activation(x) * up where up is not null, (m, k), and the same in 8 bits where q is not null. Grid (m).
extern "C" __global__ void __launch_bounds__(256) activate(float* x, const float* up, int kind, int k, int8_t* q, float2* scale) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const size_t row = blockIdx.x;
    for (int u = warp; u < (k + 31) / 32; u += warps) {
        const int e = 32 * u + lane;
        float v = 0.0f;
        if (e < k) {
            v = activation(kind, x[row * k + e]) * (up ? up[row * k + e] : 1.0f);
            x[row * k + e] = v;
        }
        if (q) quantize_unit(v, q + row * k + 32 * u, scale + row * (k / 32) + u);
    }
}

// Rows of three neighbouring frames, zero beyond the edges: x (frames, channels) to out (frames / stride rounded up, 3 channels).
extern "C" __global__ void __launch_bounds__(256) unfold(const float* x, int frames, int channels, int stride, float* out) {
    const int width = 3 * channels;
    for (int e = threadIdx.x; e < width; e += blockDim.x) {
        const int frame = (int)blockIdx.x * stride + e / channels - 1;
        const bool there = frame >= 0 && frame < frames;
        out[(size_t)blockIdx.x * width + e] = there ? x[(size_t)frame * channels + e % channels] : 0.0f;
    }
}

// x += rows of a table (n, k) by position, (m, k): those outside it take its nearest. Grid (m).
extern "C" __global__ void __launch_bounds__(256) add_places(const float* table, int n, int k, const int* positions, float* x) {
    const size_t from = (size_t)min(max(positions[blockIdx.x], 0), n - 1) * k;
    for (int e = threadIdx.x; e < k; e += blockDim.x) x[(size_t)blockIdx.x * k + e] += table[from + e];
}

// Rows of x, (n, k), in the order of `rows`, (m): those outside it take its nearest. Grid (m).
extern "C" __global__ void __launch_bounds__(256) gather(const float* x, int n, int k, const int* rows, float* out) {
    const size_t from = (size_t)min(max(rows[blockIdx.x], 0), n - 1) * k;
    for (int e = threadIdx.x; e < k; e += blockDim.x) out[(size_t)blockIdx.x * k + e] = x[from + e];
}

// Rows whose columns were computed apart to out (m, k). x: parts of (m, width) each, the last one's rows as short as its columns are few.
// Grid (k / 256 rounded up, m).
extern "C" __global__ void __launch_bounds__(256) join(const float* x, int width, int k, float* out) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= k) return;
    const int first = c / width * width, own = min(width, k - first);
    out[(size_t)blockIdx.y * k + c] = x[(size_t)first * gridDim.y + (size_t)blockIdx.y * own + c % width];
}
