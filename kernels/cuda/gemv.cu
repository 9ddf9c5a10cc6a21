// Products of a few rows of activations by quantized weights: a decode step reads each weight once, so that it is bound by memory.
//
// A warp computes one row of the weights at a time, for all rows of activations: its lanes take units of 32 elements in turn, so
// that a warp's loads are consecutive. Activations are in 8 bits (dp4a) where weights are quantized, floats where they are not.
#include "formats.cuh"

struct Gemv {
    Part part[3];
    int parts, k;
    int rows_per_warp; // consecutive ones
    int activation;    // NONE: parts are products of their own; else out[0] = act(part 0) * part 1
    int accumulate;    // out += instead of out =
    const float* x;    // (m, k)
    const float* norm; // (k) or null: x is RMS-normed first, by each block for itself (one row only)
    float eps;
    const int8_t* q;     // (m, k) x in 8 bits, null with a norm
    const float2* scale; // (m, k / 32)
    int8_t* out_q;       // with an activation: the result in 8 bits, too; null: not wanted
    float2* out_scale;
};

// The dot products of a row of weights with m rows of activations; each lane's share.
template <int M, int KIND>
__device__ __forceinline__ void dot(const uint8_t* row, int k, const float* x, const int8_t* q, const float2* scale, float (&sum)[M]) {
    const int lane = threadIdx.x & 31;
    if constexpr (is_float(KIND)) {
        for (int e = lane; e < k; e += 32) {
            const float w = load_float<KIND>(row, e);
#pragma unroll
            for (int i = 0; i < M; i++) sum[i] += w * x[(size_t)i * k + e];
        }
        return;
    }
    const int units = k / 32;
#pragma unroll 2
    for (int u = lane; u < units; u += 32) {
        Unit unit;
        load_unit<KIND>(row, u, unit);
#pragma unroll
        for (int i = 0; i < M; i++) {
            const int4* v = (const int4*)(q + (size_t)i * k) + 2 * u;
            const int4 a = v[0], b = v[1];
            const float2 s = scale[(size_t)i * units + u];
            int low = __dp4a(unit.q[0], a.x, 0), high = __dp4a(unit.q[4], b.x, 0);
            low = __dp4a(unit.q[3], a.w, __dp4a(unit.q[2], a.z, __dp4a(unit.q[1], a.y, low)));
            high = __dp4a(unit.q[7], b.w, __dp4a(unit.q[6], b.z, __dp4a(unit.q[5], b.y, high)));
            if constexpr (has_halves(KIND)) {
                float v = unit.d[0] * low + unit.d[1] * high;
                if constexpr (KIND == Q2K) {
                    const int ones = 0x01010101;
                    int first = __dp4a(ones, a.w, __dp4a(ones, a.z, __dp4a(ones, a.y, __dp4a(ones, a.x, 0))));
                    int last = __dp4a(ones, b.w, __dp4a(ones, b.z, __dp4a(ones, b.y, __dp4a(ones, b.x, 0))));
                    v -= unit.m[0] * first + unit.m[1] * last;
                }
                sum[i] += s.x * v;
            } else {
                sum[i] += unit.d[0] * s.x * (low + high) - unit.m[0] * s.y;
            }
        }
    }
}

template <int M> struct Dot {
    const uint8_t* row;
    const Gemv& g;
    const float* x;
    const int8_t* q;
    const float2* scale;
    float (&sum)[M];
    template <int KIND> __device__ void operator()() { dot<M, KIND>(row, g.k, x, q, scale, sum); }
};

template <int M> __device__ void gemv(const Gemv& g) {
    extern __shared__ __align__(16) uint8_t shared[];
    __shared__ float reduce[32];
    __shared__ float tile[M][32]; // what a block's warps made of 32 consecutive rows
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const float* x = g.x;
    const int8_t* q = g.q;
    const float2* scale = g.scale;
    if (M == 1 && g.norm) {
        const int units = (g.k + 31) / 32;
        float* normed = (float*)shared; // whole units of floats, then of bytes, then their scales
        int8_t* codes = (int8_t*)(normed + 32 * units);
        float2* scales = (float2*)(codes + 32 * units);
        float squares = 0.0f;
        for (int e = threadIdx.x; e < g.k; e += blockDim.x) squares += x[e] * x[e];
        const float by = rsqrtf(block_sum(squares, reduce) / g.k + g.eps);
        for (int u = warp; u < units; u += warps) {
            const int e = 32 * u + lane;
            const float v = e < g.k ? x[e] * by * g.norm[e] : 0.0f;
            if (e < g.k) normed[e] = v;
            if (g.k % 32 == 0) quantize_unit(v, codes + 32 * u, scales + u);
        }
        __syncthreads();
        x = normed;
        q = codes;
        scale = scales;
    }
    int total = g.part[0].rows;
    if (!g.activation)
        for (int p = 1; p < g.parts; p++) total += g.part[p].rows;
    const int first = (blockIdx.x * warps + warp) * g.rows_per_warp;
    for (int r = first; r < min(first + g.rows_per_warp, total); r++) {
        int p = 0, row = r;
        if (!g.activation)
            while (row >= g.part[p].rows) row -= g.part[p++].rows;
        float value[M] = {};
        for (int pass = 0; pass < (g.activation ? 2 : 1); pass++) {
            const Part& part = g.part[p + pass];
            float sum[M] = {};
            with_kind(part.kind, Dot<M>{part.weights + (size_t)row * row_bytes(part.kind, g.k), g, x, q, scale, sum});
            const float bias = part.bias ? part.bias[row] : 0.0f;
#pragma unroll
            for (int i = 0; i < M; i++) {
                const float v = warp_sum(sum[i]) + bias;
                value[i] = pass ? activate(g.activation, value[i]) * v : v;
            }
        }
        const Part& part = g.part[p];
        if (lane == 0) {
#pragma unroll
            for (int i = 0; i < M; i++) {
                float* out = part.out + (size_t)i * part.rows + row;
                *out = g.accumulate ? *out + value[i] : value[i];
                if (g.out_q) tile[i][r & 31] = value[i];
            }
        }
    }
    if (g.out_q) { // a block has 32 rows then, and there are whole 32s of them
        __syncthreads();
        const int unit = blockIdx.x, units = g.part[0].rows / 32;
        for (int i = warp; i < M; i += warps)
            quantize_unit(tile[i][lane], g.out_q + ((size_t)i * units + unit) * 32, g.out_scale + (size_t)i * units + unit);
    }
}

extern "C" __global__ void __launch_bounds__(256, 2) gemv_1(const __grid_constant__ Gemv g) { gemv<1>(g); }
extern "C" __global__ void __launch_bounds__(256, 2) gemv_2(const __grid_constant__ Gemv g) { gemv<2>(g); }
extern "C" __global__ void __launch_bounds__(256) gemv_4(const __grid_constant__ Gemv g) { gemv<4>(g); }
extern "C" __global__ void __launch_bounds__(256, 1) gemv_8(const __grid_constant__ Gemv g) { gemv<8>(g); }

struct Embed {
    const uint8_t* table;
    float* x;
    const uint8_t* row;
    int k, unit;
    float scale;
    template <int KIND> __device__ void operator()() {
        const int lane = threadIdx.x & 31;
        const int e = 32 * unit + lane;
        if (e >= k) return;
        float v;
        if constexpr (is_float(KIND)) {
            v = load_float<KIND>(row, e);
        } else {
            Unit u;
            load_unit<KIND>(row, unit, u);
            int word = 0;
#pragma unroll
            for (int j = 0; j < 8; j++) word = lane / 4 == j ? u.q[j] : word;
            const int half = has_halves(KIND) ? lane / 16 : 0;
            v = u.d[half] * (int8_t)(word >> 8 * (lane & 3)) - u.m[half];
        }
        x[e] = v * scale;
    }
};

// Rows of the embeddings: x (m, k) of tokens (m). Grid (m), a warp to a unit.
extern "C" __global__ void __launch_bounds__(256)
    embed(const uint8_t* table, int kind, int k, int vocab, float scale, const int* tokens, float* x) {
    const int token = min(max(tokens[blockIdx.x], 0), vocab - 1);
    for (int u = threadIdx.x >> 5; u < (k + 31) / 32; u += blockDim.x >> 5)
        with_kind(kind, Embed{table, x + (size_t)blockIdx.x * k, table + (size_t)token * row_bytes(kind, k), k, u, scale});
}
