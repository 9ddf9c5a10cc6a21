// Convolutions: any kernel, stride, dilation and padding. Their references are those of cpu/conv_reference.rs.
#include "mma.cuh"
#include "picture.cuh"

struct Conv {
    Window w;
    const float* x;       // (h, w, c)
    const float* weights; // (n, kh, kw, c); conv_direct: (kh, kw, c, n); depthwise: (kh, kw, c)
    const float* bias;    // (n) or null
    float* out;           // (oh, ow, n)
    Tail tail;
    int splits; // conv_mma: warps of a block that share the sums of one tile: 1, 2 or 4
    int exact;  // conv_mma: the weights have no more significant bits than TF32
};

constexpr int TILE = 16, CHANNELS = 32; // pixels and output channels of a warp's tile
constexpr int WARPS = 4;

// A float as two of TF32's 11 significant bits: hi + lo = v but for 2^-22 of it.
__device__ __forceinline__ void split(float v, uint32_t& hi, uint32_t& lo) {
    hi = (__float_as_uint(v) + 0x1000u) & 0xffffe000u;
    lo = (__float_as_uint(v - __uint_as_float(hi)) + 0x1000u) & 0xffffe000u; // rounded too: cut off, the errors of a sum would add up
}

// 16 channels of one tap: of two pixels a lane (g and g + 8 of the tile) and four output channels (8 j + g), four neighbours each.
struct Fragment {
    float4 a[2], b[4];
};

__device__ __forceinline__ float at(const float4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// An implicit matrix product on tensor cores, for c a multiple of 4: rows are output pixels, the sum runs over taps and channels.
//
// Lane (g, t) of a warp loads the four channels from 4 t on of pixel g: for a product over 8 channels the tensor cores want channels t
// and t + 4 of it, and which these are is free as long as both operands agree. So a warp reads whole sectors straight into the places
// where the tensor cores expect them, without shared memory. Each value is split in two of TF32, whose products are exact in float: a
// product is off by at most 2^-22 of itself where the weights are half floats, 2^-20 where they are not (TF32 alone: 2^-10).
// Grid (tiles of pixels / (4 / splits), n / 32).
extern "C" __global__ void __launch_bounds__(32 * WARPS) conv_mma(const __grid_constant__ Conv k) {
    __shared__ float sums[WARPS][16 * 32];
    const Window& w = k.w;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const int part = warp % k.splits, first = warp - part; // the warps from `first` on share a tile
    const int tile = blockIdx.x * (WARPS / k.splits) + warp / k.splits, n0 = blockIdx.y * CHANNELS;
    const int pixels = w.oh * w.ow, taps = w.kh * w.kw, each = (w.c + 15) / 16; // steps of a tap
    int y[2], x[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int p = tile * TILE + g + 8 * r;
        y[r] = p < pixels ? p / w.ow * w.sh - w.top : -(1 << 30); // a row of zeros where there is no pixel
        x[r] = p % w.ow * w.sw - w.left;
    }
    const auto load = [&](int step) {
        Fragment f;
        const int tap = step / each, c = (step - tap * each) * 16 + 4 * t;
        const int dy = tap / w.kw * w.dh, dx = tap % w.kw * w.dw;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int iy = y[r] + dy, ix = x[r] + dx;
            const bool inside = c < w.c && iy >= 0 && iy < w.h && ix >= 0 && ix < w.w;
            f.a[r] = inside ? *(const float4*)(k.x + ((size_t)iy * w.w + ix) * w.c + c) : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int n = n0 + 8 * j + g;
            const bool inside = c < w.c && n < w.n;
            f.b[j] = inside ? __ldg((const float4*)(k.weights + ((size_t)n * taps + tap) * w.c + c)) : make_float4(0, 0, 0, 0);
        }
        return f;
    };
    float sum[4][4] = {};
    const int steps = taps * each;
    Fragment now = load(min(part, steps - 1));
    for (int step = part; step < steps; step += k.splits) {
        const Fragment next = load(min(step + k.splits, steps - 1)); // in flight while this one is multiplied
#pragma unroll
        for (int s = 0; s < 2; s++) {
            uint32_t hi[4], lo[4];
#pragma unroll
            for (int i = 0; i < 4; i++) split(at(now.a[i & 1], 2 * s + (i >> 1)), hi[i], lo[i]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t bh[2], bl[2];
                split(at(now.b[j], 2 * s), bh[0], bl[0]);
                split(at(now.b[j], 2 * s + 1), bh[1], bl[1]);
                mma_tf32(sum[j], lo, bh[0], bh[1]);
                if (!k.exact) mma_tf32(sum[j], hi, bl[0], bl[1]);
                mma_tf32(sum[j], hi, bh[0], bh[1]);
            }
        }
        now = next;
    }
    if (k.splits > 1) {
#pragma unroll
        for (int i = 0; i < 16; i++) sums[warp][32 * i + lane] = sum[i >> 2][i & 3];
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (j % k.splits != part) continue; // each of the warps finishes its share of the tile
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int p = tile * TILE + g + 8 * (i >> 1), n = n0 + 8 * j + 2 * t + (i & 1);
            if (p >= pixels || n >= w.n) continue;
            float v = sum[j][i];
            if (k.splits > 1) {
                v = 0.0f;
                for (int s = first; s < first + k.splits; s++) v += sums[s][32 * (4 * j + i) + lane];
            }
            k.out[(size_t)p * w.n + n] = finish(k.tail, v + (k.bias ? k.bias[n] : 0.0f), p, n);
        }
    }
}

constexpr int PIXELS = 4;

// The same in floats, for any number of channels: first layers above all. A thread has one output channel of four pixels.
extern "C" __global__ void __launch_bounds__(256) conv_direct(const __grid_constant__ Conv k) {
    const Window& w = k.w;
    const int n = thread() % w.n, p0 = thread() / w.n * PIXELS, pixels = w.oh * w.ow;
    if (p0 >= pixels) return;
    int y[PIXELS], x[PIXELS];
    float sum[PIXELS];
#pragma unroll
    for (int p = 0; p < PIXELS; p++) {
        y[p] = p0 + p < pixels ? (p0 + p) / w.ow * w.sh - w.top : -(1 << 30);
        x[p] = (p0 + p) % w.ow * w.sw - w.left;
        sum[p] = k.bias ? k.bias[n] : 0.0f;
    }
    const float* weights = k.weights + n;
    for (int ky = 0; ky < w.kh; ky++)
        for (int kx = 0; kx < w.kw; kx++) {
            int from[PIXELS]; // negative: outside the picture
#pragma unroll
            for (int p = 0; p < PIXELS; p++) {
                const int iy = y[p] + ky * w.dh, ix = x[p] + kx * w.dw;
                from[p] = iy >= 0 && iy < w.h && ix >= 0 && ix < w.w ? (iy * w.w + ix) * w.c : -1;
            }
            for (int c = 0; c < w.c; c++, weights += w.n) {
                const float weight = __ldg(weights);
#pragma unroll
                for (int p = 0; p < PIXELS; p++)
                    if (from[p] >= 0) sum[p] += weight * k.x[from[p] + c];
            }
        }
#pragma unroll
    for (int p = 0; p < PIXELS; p++)
        if (p0 + p < pixels) k.out[(size_t)(p0 + p) * w.n + n] = finish(k.tail, sum[p], p0 + p, n);
}

// The same for few pixels and long sums, c a multiple of 4: a warp has one output. Grid (n / 8, pixels).
extern "C" __global__ void __launch_bounds__(256) conv_dot(const __grid_constant__ Conv k) {
    const Window& w = k.w;
    const int lane = threadIdx.x & 31, n = blockIdx.x * 8 + (threadIdx.x >> 5), p = blockIdx.y;
    if (n >= w.n) return;
    const int y = p / w.ow * w.sh - w.top, x = p % w.ow * w.sw - w.left, quads = w.c / 4, all = w.kh * w.kw * quads;
    const float4* weights = (const float4*)k.weights + (size_t)n * all;
    float sum = 0.0f;
#pragma unroll 4
    for (int i = lane; i < all; i += 32) {
        const int tap = i / quads, iy = y + tap / w.kw * w.dh, ix = x + tap % w.kw * w.dw;
        if (iy < 0 || iy >= w.h || ix < 0 || ix >= w.w) continue;
        const float4 a = *(const float4*)(k.x + ((size_t)iy * w.w + ix) * w.c + 4 * (i - tap * quads)), b = __ldg(weights + i);
        sum += a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
    }
    sum = warp_sum(sum);
    if (lane == 0) k.out[(size_t)p * w.n + n] = finish(k.tail, sum + (k.bias ? k.bias[n] : 0.0f), p, n);
}

// One input channel an output channel. A thread has V neighbouring channels of P neighbouring pixels: weights are loaded once for them.
template <int V, int P> __device__ __forceinline__ void depthwise(const Conv& k) {
    const Window& w = k.w;
    const int groups = w.c / V, columns = (w.ow + P - 1) / P, i = thread();
    const int c = i % groups * V, ox = i / groups % columns * P, oy = i / groups / columns;
    if (oy >= w.oh) return;
    const auto load = [](const float* from, float (&v)[V]) {
        if constexpr (V == 4)
            *(float4*)v = *(const float4*)from;
        else
            v[0] = *from;
    };
    alignas(16) float sum[P][V], weight[V], x[V];
#pragma unroll
    for (int p = 0; p < P; p++)
#pragma unroll
        for (int v = 0; v < V; v++) sum[p][v] = k.bias ? k.bias[c + v] : 0.0f;
    for (int ky = 0; ky < w.kh; ky++) {
        const int iy = oy * w.sh - w.top + ky * w.dh;
        if (iy < 0 || iy >= w.h) continue;
        const float* line = k.x + (size_t)iy * w.w * w.c + c;
        for (int kx = 0; kx < w.kw; kx++) {
            load(k.weights + (size_t)(ky * w.kw + kx) * w.c + c, weight);
#pragma unroll
            for (int p = 0; p < P; p++) {
                const int ix = (ox + p) * w.sw - w.left + kx * w.dw;
                if (ix < 0 || ix >= w.w) continue;
                load(line + (size_t)ix * w.c, x);
#pragma unroll
                for (int v = 0; v < V; v++) sum[p][v] += weight[v] * x[v];
            }
        }
    }
#pragma unroll
    for (int p = 0; p < P; p++) {
        const int pixel = oy * w.ow + ox + p;
        if (ox + p >= w.ow) break;
#pragma unroll
        for (int v = 0; v < V; v++) x[v] = finish(k.tail, sum[p][v], pixel, c + v);
        float* out = k.out + (size_t)pixel * w.n + c;
        if constexpr (V == 4)
            *(float4*)out = *(const float4*)x;
        else
            *out = x[0];
    }
}

extern "C" __global__ void __launch_bounds__(256) depthwise_4x4(const __grid_constant__ Conv k) { depthwise<4, 4>(k); }
extern "C" __global__ void __launch_bounds__(256) depthwise_4x1(const __grid_constant__ Conv k) { depthwise<4, 1>(k); }
extern "C" __global__ void __launch_bounds__(256) depthwise_1x1(const __grid_constant__ Conv k) { depthwise<1, 1>(k); }
