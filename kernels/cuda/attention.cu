// Keys and values to the paged store, and attention of single rows over it: decode.
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

struct Attend {
    const float* q;       // (m, heads, head_dim)
    const int* positions; // (m): each row sees the positions up to its own; negative: the row is empty
    int heads, window;    // window: positions seen at most, 0: all
    float scale;
    float* partial; // (m, heads, splits, head_dim + 2): largest score, sum, weighted values
    int* counters;  // (m, kv_heads), zero before and after
    float* out;     // (m, heads, head_dim)
    int8_t* out_q;  // the same in 8 bits
    float2* out_scale;
    Store store;
};

constexpr int GROUP = 16; // query heads that share a key head, at most

// The score of this thread's position of a block.
template <int DIM, int KIND> __device__ __forceinline__ float score(const uint8_t* head, const float* q) {
    float s = 0.0f;
    if constexpr (KIND == HALVES) {
#pragma unroll 4
        for (int e = 0; e < DIM / 8; e++) {
            const uint4 word = *(const uint4*)(head + ((size_t)e * POSITIONS + threadIdx.x) * 16);
            const __half2* pairs = (const __half2*)&word;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float2 v = __half22float2(pairs[j]);
                s += v.x * q[8 * e + 2 * j] + v.y * q[8 * e + 2 * j + 1];
            }
        }
    } else {
        const __half* scales = (const __half*)(head + layout_of(KIND, DIM).key_scales);
#pragma unroll 2
        for (int e = 0; e < DIM / 16; e++) {
            const uint4 word = *(const uint4*)(head + ((size_t)e * POSITIONS + threadIdx.x) * 16);
            float part = 0.0f;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float2 v = __half22float2(code_pair((&word.x)[j / 2], j % 2));
                part += v.x * q[16 * e + 2 * j] + v.y * q[16 * e + 2 * j + 1];
            }
            s += part * __half2float(scales[e / 2 * POSITIONS + threadIdx.x]);
        }
    }
    return s;
}

// Element e of the value at position p of a block.
template <int DIM, int KIND> __device__ __forceinline__ float value(const uint8_t* head, int p, int e) {
    constexpr Layout l = layout_of(KIND, DIM);
    if constexpr (KIND == HALVES) return __half2float(((const __half*)(head + l.values))[(size_t)p * DIM + e]);
    const float code = ((const int8_t*)(head + l.values))[(size_t)p * DIM + e];
    return code * __half2float(((const __half*)(head + l.value_scales))[e / SUB * POSITIONS + p]);
}

// One row's attention over all positions before it, split over the grid's first axis: each thread block takes every splits-th
// block of the store, and the last one to finish puts the parts together. Grid (splits, kv_heads, m), 128 threads.
template <int DIM, int KIND> __device__ void attend(const Attend& a) {
    extern __shared__ __align__(16) float memory[];
    constexpr int EACH = (DIM + 31) / 32;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int split = blockIdx.x, splits = gridDim.x, kv = blockIdx.y, row = blockIdx.z;
    const int group = a.heads / a.store.kv_heads, first_head = kv * group;
    float* q = memory;                       // (group, DIM)
    float* scores = q + group * DIM;         // (group, 128)
    float* sums = scores + group * POSITIONS; // (4 warps, group, DIM)
    __shared__ float largest[GROUP], total[GROUP], shrink[GROUP];
    __shared__ bool last;
    const int sequence = a.store.sequences[row];
    const int end = a.positions[row] + 1;
    if (end <= 0) return;
    const int begin = a.window ? max(end - a.window, 0) : 0;
    const float* from = a.q + ((size_t)row * a.heads + first_head) * DIM;
    for (int i = threadIdx.x; i < group * DIM; i += blockDim.x) q[i] = from[i] * a.scale;
    for (int i = threadIdx.x; i < 4 * group * DIM; i += blockDim.x) sums[i] = 0.0f;
    if (threadIdx.x < group) largest[threadIdx.x] = -INFINITY, total[threadIdx.x] = 0.0f;
    __syncthreads();
    const int blocks = (end + POSITIONS - 1) / POSITIONS;
    for (int b = begin / POSITIONS + split; b < blocks; b += splits) {
        const uint8_t* head = head_of(a.store, sequence, b * POSITIONS, kv);
        const int position = b * POSITIONS + threadIdx.x;
        const bool seen = position >= begin && position < end;
        for (int h = 0; h < group; h++) {
            const float s = seen ? score<DIM, KIND>(head, q + h * DIM) : 0.0f;
            scores[h * POSITIONS + threadIdx.x] = seen ? s : -INFINITY;
        }
        __syncthreads();
        for (int h = warp; h < group; h += 4) {
            float m = largest[h];
#pragma unroll
            for (int j = 0; j < 4; j++) m = fmaxf(m, scores[h * POSITIONS + 32 * j + lane]);
            m = warp_max(m);
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float& s = scores[h * POSITIONS + 32 * j + lane];
                s = __expf(s - m);
                sum += s;
            }
            sum = warp_sum(sum);
            if (lane == 0) {
                shrink[h] = __expf(largest[h] - m);
                total[h] = total[h] * shrink[h] + sum;
                largest[h] = m;
            }
        }
        __syncthreads();
        const int count = min(POSITIONS, end - b * POSITIONS);
        for (int h = 0; h < group; h++) {
            float sum[EACH] = {};
            for (int p = warp; p < count; p += 4) {
                const float weight = scores[h * POSITIONS + p];
                if (weight == 0.0f) continue; // before the window: what lies there may be anything
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    if (32 * j + lane < DIM) sum[j] += weight * value<DIM, KIND>(head, p, 32 * j + lane);
            }
            float* into = sums + (warp * group + h) * DIM;
#pragma unroll
            for (int j = 0; j < EACH; j++)
                if (32 * j + lane < DIM) into[32 * j + lane] = into[32 * j + lane] * shrink[h] + sum[j];
        }
        __syncthreads();
    }
    float* part = a.partial + (((size_t)row * a.heads + first_head) * splits + split) * (DIM + 2);
    const size_t next_head = (size_t)splits * (DIM + 2);
    for (int i = threadIdx.x; i < group * DIM; i += blockDim.x) {
        float v = 0.0f;
#pragma unroll
        for (int w = 0; w < 4; w++) v += sums[w * group * DIM + i];
        part[(i / DIM) * next_head + 2 + i % DIM] = v;
    }
    if (threadIdx.x < group) {
        part[threadIdx.x * next_head] = largest[threadIdx.x];
        part[threadIdx.x * next_head + 1] = total[threadIdx.x];
    }
    __threadfence();
    __syncthreads();
    int* counter = a.counters + (size_t)row * a.store.kv_heads + kv;
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == splits - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *counter = 0; // for the next step
    const float* parts = a.partial + ((size_t)row * a.heads + first_head) * next_head;
    for (int h = warp; h < group; h += 4, __syncwarp()) {
        const volatile float* mine = parts + h * next_head;
        float m = -INFINITY, sum = 0.0f;
        for (int s = 0; s < splits; s++) m = fmaxf(m, mine[(size_t)s * (DIM + 2)]);
        for (int s = 0; s < splits; s++) sum += mine[(size_t)s * (DIM + 2) + 1] * __expf(mine[(size_t)s * (DIM + 2)] - m);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int e = 32 * j + lane;
            float v = 0.0f;
            if (e < DIM)
                for (int s = 0; s < splits; s++) v += mine[(size_t)s * (DIM + 2) + 2 + e] * __expf(mine[(size_t)s * (DIM + 2)] - m);
            v /= sum;
            const size_t at = ((size_t)row * a.heads + first_head + h) * DIM;
            if (e < DIM) a.out[at + e] = v;
            if (DIM % 32 == 0) quantize_unit(v, a.out_q + at + 32 * j, a.out_scale + at / 32 + j);
        }
    }
}

#define ATTEND(DIM)                                                                                                             \
    extern "C" __global__ void __launch_bounds__(128, 4) attend_##DIM(const __grid_constant__ Attend a) { attend<DIM, HALVES>(a); } \
    extern "C" __global__ void __launch_bounds__(128, 4) attend_##DIM##_q8(const __grid_constant__ Attend a) { attend<DIM, BYTES>(a); }
ATTEND(16)
ATTEND(32)
ATTEND(64)
ATTEND(80)
ATTEND(96)
ATTEND(128)
ATTEND(256)
