// Keys and values of sequences that are decoded side by side, and the attention of a few rows over them.
//
// A line of the store has room for the positions of one sequence: (lines, capacity, heads, head_dim), in half precision. Sequences
// that parted share the positions before: `origins` tells in which line each position of each sequence lies, so that nothing is copied.
#include "common.cuh"

struct Beams {
    __half *keys, *values;
    const int *sequences, *positions; // (m): of each row; null: row i is position i, and all see all of line 0
    const int* origins;               // (lines, capacity)
    int lines, capacity, heads, head_dim;
};

// Where a position of a sequence lies.
__device__ __forceinline__ size_t place(const Beams& b, int sequence, int position) {
    int line = 0;
    if (b.sequences) line = min(max(b.origins[(size_t)sequence * b.capacity + position], 0), b.lines - 1);
    return ((size_t)line * b.capacity + position) * b.heads * b.head_dim;
}

// Of a row its sequence and position, held within what there is.
__device__ __forceinline__ int2 row_of(const Beams& b, int row) {
    if (!b.sequences) return make_int2(0, min(row, b.capacity - 1));
    return make_int2(min(max(b.sequences[row], 0), b.lines - 1), min(max(b.positions[row], 0), b.capacity - 1));
}

struct Append {
    const float* rows; // (m, stride): keys at `key`, values at `value`
    int stride, key, value;
    Beams beams;
};

// Keys and values to their lines. Grid (m).
extern "C" __global__ void __launch_bounds__(256) beams_append(const __grid_constant__ Append a) {
    const Beams& b = a.beams;
    const int width = b.heads * b.head_dim;
    const int2 row = row_of(b, blockIdx.x);
    const size_t to = place(b, row.x, row.y);
    const float* from = a.rows + (size_t)blockIdx.x * a.stride;
    for (int e = threadIdx.x; e < width; e += blockDim.x) {
        b.keys[to + e] = __float2half_rn(from[a.key + e]);
        b.values[to + e] = __float2half_rn(from[a.value + e]);
    }
}

struct Attend {
    const float* q; // (m, stride): row i sees the positions of its sequence up to its own
    int stride;
    float scale;
    float* out;      // (m, heads, head_dim)
    int8_t* out_q;   // the same in 8 bits; null: not wanted
    float2* out_scale;
    const int* places; // (heads) where in `weights` a head's go; null: none are wanted
    int probes;        // places outside 0 up to this are nowhere
    float* weights;    // (probes, m, positions)
    Beams beams;
};

constexpr int WARPS = 8, MOST = 128; // warps of a block; largest head_dim

// The attention of a row and a head. Grid (heads, m), 256 threads; shared: the scores.
extern "C" __global__ void __launch_bounds__(256) beams_attend(const __grid_constant__ Attend a) {
    extern __shared__ float scores[];
    __shared__ float q[MOST], sums[WARPS][MOST], reduce[32];
    const Beams& b = a.beams;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int head = blockIdx.x, row = blockIdx.y, dim = b.head_dim, width = b.heads * dim;
    const int2 own = row_of(b, row);
    const int seen = b.sequences ? own.y + 1 : b.capacity;
    for (int e = threadIdx.x; e < dim; e += blockDim.x) q[e] = a.q[(size_t)row * a.stride + head * dim + e] * a.scale;
    __syncthreads();
    const auto at = [&](int p) { return place(b, own.x, p) + head * dim; };
    // 1. scores, a position to a thread
    float largest = -INFINITY;
    for (int p = threadIdx.x; p < seen; p += blockDim.x) {
        const uint4* key = (const uint4*)(b.keys + at(p));
        float s = 0.0f;
#pragma unroll 4
        for (int e = 0; e < dim / 8; e++) {
            const uint4 word = key[e];
            const __half2* pairs = (const __half2*)&word;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float2 v = __half22float2(pairs[j]);
                s += v.x * q[8 * e + 2 * j] + v.y * q[8 * e + 2 * j + 1];
            }
        }
        scores[p] = s;
        largest = fmaxf(largest, s);
    }
    largest = warp_max(largest);
    if (lane == 0) reduce[warp] = largest;
    __syncthreads();
    largest = warp_max(lane < WARPS ? reduce[lane] : -INFINITY);
    // 2. their weights
    float sum = 0.0f;
    for (int p = threadIdx.x; p < seen; p += blockDim.x) {
        const float w = __expf(scores[p] - largest);
        scores[p] = w;
        sum += w;
    }
    const float by = 1.0f / block_sum(sum, reduce); // waits for all scores
    const int probe = a.places ? a.places[head] : -1;
    if (probe >= 0 && probe < a.probes) {
        float* to = a.weights + ((size_t)probe * gridDim.y + row) * seen;
        for (int p = threadIdx.x; p < seen; p += blockDim.x) to[p] = scores[p] * by;
    }
    // 3. values, a position to a warp
    float2 v0 = make_float2(0.0f, 0.0f), v1 = v0;
    for (int p = warp; p < seen; p += WARPS) {
        const __half2* value = (const __half2*)(b.values + at(p));
        const float w = scores[p];
        if (2 * lane < dim) {
            const float2 v = __half22float2(value[lane]);
            v0.x += w * v.x, v0.y += w * v.y;
        }
        if (64 + 2 * lane < dim) {
            const float2 v = __half22float2(value[32 + lane]);
            v1.x += w * v.x, v1.y += w * v.y;
        }
    }
    sums[warp][2 * lane] = v0.x, sums[warp][2 * lane + 1] = v0.y;
    sums[warp][64 + 2 * lane] = v1.x, sums[warp][64 + 2 * lane + 1] = v1.y;
    __syncthreads();
    for (int e = threadIdx.x; e < (dim + 31) / 32 * 32; e += blockDim.x) {
        float v = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) v += sums[w][e];
        v *= by;
        const size_t to = (size_t)row * width + head * dim;
        if (e < dim) a.out[to + e] = v;
        if (a.out_q) quantize_unit(v, a.out_q + to + e - lane, a.out_scale + (to + e) / 32);
    }
}
