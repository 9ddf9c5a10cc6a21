// Keys and values to the paged store, and attention of single rows over it: decode.
#include "few.cuh"
#include "store.cuh"

struct RopeAppend {
    float *q, *k;          // (m, heads, head_dim), (m, kv_heads, head_dim)
    const float* v;        // as k
    const float *q_norm, *k_norm; // (head_dim) or null
    const float *cos, *sin; // (rows, rotary / 2)
    const int* positions;  // (m), negative: the row is empty
    const int* turns;      // (m) rows of the tables of cosines and sines
    int heads, rotary, interleaved;
    float eps;
    Store store;
};

// 32 elements of a warp in 8 bits by their largest, rounded as `quantized` of cpu/kv.rs does.
__device__ __forceinline__ int8_t eight_bits(float v, __half* scale) {
    const float most = warp_max(fabsf(v)), inverse = most == 0.0f ? 0.0f : 127.0f / most;
    if ((threadIdx.x & 31) == 0) *scale = __float2half_rn(most / 127.0f);
    return (int8_t)(int)roundf(v * inverse);
}

// Element e of a key and of a value to their place in a head of a block, whose position is `at`. By whole warps, e from a multiple of
// 32 on; those past the head are zeros.
__device__ __forceinline__ void append(int kind, int dim, uint8_t* head, int at, int e, float key, float value) {
    const Layout l = layout_of(kind, dim);
    if (kind == HALVES) {
        if (e >= dim) return;
        ((__half*)head)[((size_t)(e / 8) * POSITIONS + at) * 8 + e % 8] = __float2half_rn(key);
        ((__half*)(head + l.values))[(size_t)at * dim + e] = __float2half_rn(value);
        return;
    }
    const int scale = e / SUB * POSITIONS + at;
    const int8_t k = eight_bits(key, (__half*)(head + l.key_scales) + scale);
    const int8_t v = eight_bits(value, (__half*)(head + l.value_scales) + scale);
    if (e >= dim) return;
    ((int8_t*)head)[((size_t)(e / 16) * POSITIONS + at) * 16 + e % 16] = k;
    ((int8_t*)(head + l.values))[(size_t)at * dim + e] = v;
}

// Norm of the heads, rotary embedding, then keys and values to the store. Grid (heads + kv_heads, m), 128 threads.
extern "C" __global__ void __launch_bounds__(128) rope_append(const __grid_constant__ RopeAppend a) {
    __shared__ float reduce[32];
    __shared__ float row[512]; // head_dim at most
    const int h = blockIdx.x, i = blockIdx.y, dim = a.store.head_dim, position = a.positions[i];
    if (position < 0) return;
    const bool query = h < a.heads;
    const int kv = h - a.heads;
    float* x = query ? a.q + ((size_t)i * a.heads + h) * dim : a.k + ((size_t)i * a.store.kv_heads + kv) * dim;
    const float* norm = query ? a.q_norm : a.k_norm;
    float by = 1.0f;
    if (norm) {
        float squares = 0.0f;
        for (int e = threadIdx.x; e < dim; e += blockDim.x) squares += x[e] * x[e];
        by = rsqrtf(block_sum(squares, reduce) / dim + a.eps);
    }
    for (int e = threadIdx.x; e < dim; e += blockDim.x) row[e] = x[e] * by * (norm ? norm[e] : 1.0f);
    __syncthreads();
    const int pairs = a.rotary / 2;
    const float *c = a.cos + (size_t)a.turns[i] * pairs, *s = a.sin + (size_t)a.turns[i] * pairs;
    uint8_t* to = query ? nullptr : head_of(a.store, a.store.sequences[i], position, kv);
    const int at = position % POSITIONS;
    const float* value = a.v + ((size_t)i * a.store.kv_heads + kv) * dim;
    // whole warps: 32 elements find their scale together
    for (int e = threadIdx.x; e < (dim + 31) / 32 * 32; e += blockDim.x) {
        float v = e < dim ? row[e] : 0.0f;
        if (e < a.rotary) {
            const int p = a.interleaved ? e / 2 : e % pairs;
            const bool second = a.interleaved ? e & 1 : e >= pairs;
            const float other = row[a.interleaved ? e ^ 1 : (second ? e - pairs : e + pairs)];
            v = second ? v * c[p] + other * s[p] : v * c[p] - other * s[p];
        }
        if (query) {
            if (e < dim) x[e] = v;
        } else {
            append(a.store.kind, dim, to, at, e, v, e < dim ? value[e] : 0.0f);
        }
    }
}

// Keys and values of a sequence in halves, as they lie.
template <int DIM_> struct Halves {
    static constexpr int DIM = DIM_;
    const Store& store;
    int sequence, kv, low, high; // positions outside low..high may hold anything: their values are zeros
    const uint8_t* head;
    int position, in; // where the warp is, and in its block

    __device__ __forceinline__ void at(int p) {
        head = head_of(store, sequence, p, kv), position = p, in = p % POSITIONS;
    }

    __device__ __forceinline__ bool has(int i, int e) const { return e < DIM && position + i >= low && position + i < high; }

    __device__ __forceinline__ uint4 key(int i, int e) const {
        return e < DIM ? __ldg((const uint4*)head + e / 8 * POSITIONS + in + i) : make_uint4(0, 0, 0, 0);
    }

    __device__ __forceinline__ uint4 value(int i, int e) const {
        const uint8_t* values = head + layout_of(HALVES, DIM).values;
        return has(i, e) ? __ldg((const uint4*)(values + ((in + i) * DIM + e) * 2)) : make_uint4(0, 0, 0, 0);
    }
};

// Keys and values of a sequence in 8 bits, as halves.
template <int DIM_> struct Bytes : Halves<DIM_> {
    static constexpr int DIM = DIM_;

    __device__ __forceinline__ static uint4 halves(uint2 codes, const uint8_t* scale) {
        const __half2 by = __half2half2(*(const __half*)scale);
        const __half2 pairs[4] = {__hmul2(code_pair(codes.x, 0), by), __hmul2(code_pair(codes.x, 1), by),
                                  __hmul2(code_pair(codes.y, 0), by), __hmul2(code_pair(codes.y, 1), by)};
        return *(const uint4*)pairs;
    }

    __device__ __forceinline__ uint4 key(int i, int e) const {
        if (e >= DIM) return make_uint4(0, 0, 0, 0);
        const int p = this->in + i;
        const uint2 codes = __ldg((const uint2*)(this->head + (e / 16 * POSITIONS + p) * 16 + e % 16));
        return halves(codes, this->head + layout_of(BYTES, DIM).key_scales + (e / SUB * POSITIONS + p) * 2);
    }

    __device__ __forceinline__ uint4 value(int i, int e) const {
        if (!this->has(i, e)) return make_uint4(0, 0, 0, 0);
        const int p = this->in + i;
        constexpr Layout l = layout_of(BYTES, DIM);
        return halves(__ldg((const uint2*)(this->head + l.values + p * DIM + e)), this->head + l.value_scales + (e / SUB * POSITIONS + p) * 2);
    }
};

struct Attend {
    const float* q;       // (m, heads, head_dim)
    const int* positions; // (m): each row sees the positions up to its own; negative: the row is empty
    int heads, window;    // window: positions seen at most, 0: all
    float scale;
    float* partial; // (m, heads, splits, head_dim + 2): largest score, sum, weighted values
    int* counters;  // (m, grid's second axis), zero before and after
    float* out;     // (m, heads, head_dim)
    int8_t* out_q;  // the same in 8 bits
    float2* out_scale;
    Store store;
};

// What the parts of a row's context gave for a head, put together by a warp. `parts`: (splits, DIM + 2).
template <int DIM> __device__ __forceinline__ void merge(const Attend& a, const volatile float* parts, int splits, size_t at) {
    const int lane = threadIdx.x & 31;
    float most = -INFINITY, sum = 0.0f;
    for (int s = 0; s < splits; s++) most = fmaxf(most, parts[(size_t)s * (DIM + 2)]);
    for (int s = 0; s < splits; s++) sum += parts[(size_t)s * (DIM + 2) + 1] * exp2_fast(parts[(size_t)s * (DIM + 2)] - most);
#pragma unroll
    for (int j = 0; j < (DIM + 31) / 32; j++) {
        const int e = 32 * j + lane;
        float v = 0.0f;
        if (e < DIM)
            for (int s = 0; s < splits; s++) v += parts[(size_t)s * (DIM + 2) + 2 + e] * exp2_fast(parts[(size_t)s * (DIM + 2)] - most);
        v /= sum;
        if (e < DIM) a.out[at + e] = v;
        if (DIM % 32 == 0) quantize_unit(v, a.out_q + at + 32 * j, a.out_scale + at / 32 + j);
    }
}

// One row's attention over all positions before it, split over the grid's first axis: each thread block takes every splits-th
// block of the store, and the last one to finish puts the parts together. Grid (splits, kv_heads * parts of eight query heads, m), 128
// threads.
template <class SOURCE> __device__ void attend(const Attend& a) {
    extern __shared__ __align__(16) uint8_t shared[];
    __shared__ bool last;
    constexpr int DIM = SOURCE::DIM;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int split = blockIdx.x, splits = gridDim.x, row = blockIdx.z;
    const int group = a.heads / a.store.kv_heads, eights = (group + FEW_ROWS - 1) / FEW_ROWS, kv = blockIdx.y / eights;
    const int skipped = blockIdx.y % eights * FEW_ROWS, rows = min(FEW_ROWS, group - skipped);
    const size_t head = (size_t)row * a.heads + kv * group + skipped;
    const int end = a.positions[row] + 1;
    if (end <= 0) return;
    const int begin = a.window ? max(end - a.window, 0) : 0;
    uint4* queries = (uint4*)shared;
    Few<SOURCE>::load(queries, a.scale * LOG2E, DIM, [&](int r) { return r < rows ? a.q + (head + r) * DIM : nullptr; });
    SOURCE source{a.store, a.store.sequences[row], kv, begin, end};
    Few<SOURCE> few;
    for (int b = begin / POSITIONS + split; b * POSITIONS < end; b += splits) {
        const int p = b * POSITIONS + warp * FEW_KEYS;
        if (p < end && p + FEW_KEYS > begin) few.take(source, queries, p, begin, lane / 4 < rows ? end : 0);
    }
    const size_t next = (size_t)splits * (DIM + 2);
    few.finish((float*)shared, rows, [&](int r, float most, float sum, int e, float v) {
        float* part = a.partial + (head + r) * next + split * (DIM + 2);
        part[2 + e] = v;
        if (e == 0) part[0] = most, part[1] = sum;
    });
    __threadfence();
    __syncthreads();
    int* counter = a.counters + (size_t)row * gridDim.y + blockIdx.y;
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == splits - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *counter = 0; // for the next step
    for (int r = warp; r < rows; r += 4, __syncwarp()) merge<DIM>(a, a.partial + (head + r) * next, splits, (head + r) * DIM);
}

#define ATTEND(DIM)                                                                                                             \
    extern "C" __global__ void __launch_bounds__(128) attend_##DIM(const __grid_constant__ Attend a) { attend<Halves<DIM>>(a); } \
    extern "C" __global__ void __launch_bounds__(128) attend_##DIM##_q8(const __grid_constant__ Attend a) { attend<Bytes<DIM>>(a); }
ATTEND(16)
ATTEND(32)
ATTEND(64)
ATTEND(80)
ATTEND(96)
ATTEND(128)
ATTEND(256)
