// ggml's block formats, taken apart 32 elements (a unit) at a time. Blocks lie as in the file: rows one after the other.
#pragma once
#include "common.cuh"

// In the order of `BlockType` in quant.rs.
enum Kind { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2K, Q3K, Q4K, Q5K, Q6K, Q8K };

// Bytes of a block of 32 or 256 elements (of an element where there are no blocks).
__host__ __device__ constexpr int block_bytes(int kind) {
    constexpr int bytes[] = {4, 2, 2, 18, 20, 22, 24, 34, 36, 84, 110, 144, 176, 210, 292};
    return bytes[kind];
}

__host__ __device__ constexpr bool is_float(int kind) { return kind <= BF16; }
__host__ __device__ constexpr bool is_super(int kind) { return kind >= Q2K; }
// Whether each half of a unit has a scale of its own.
__host__ __device__ constexpr bool has_halves(int kind) { return kind == Q2K || kind == Q3K || kind == Q6K; }

// 32 elements: value[e] = d[e / 16] * q[e] - m[e / 16]; where a unit has no halves, d[0] and m[0] hold for all of it.
struct Unit {
    int q[8]; // four signed bytes each
    float d[2], m[2];
};

struct Part { // (rows, k) weights
    const uint8_t* weights;
    const float* bias; // (rows) or null
    float* out;        // (m, rows)
    int rows, kind;
};

// Four bytes of a block whose size is even, not a multiple of four.
__device__ __forceinline__ uint32_t load2(const uint8_t* p) {
    const uint16_t* h = (const uint16_t*)p;
    return (uint32_t)h[0] | (uint32_t)h[1] << 16;
}

__device__ __forceinline__ uint32_t load4(const uint8_t* p) { return *(const uint32_t*)p; }
__device__ __forceinline__ float half_at(const uint8_t* p) { return __half2float(*(const __half*)p); }

// Bits 0 to 3 of b, each to bit 0 of a byte of its own.
__device__ __forceinline__ uint32_t spread(uint32_t b) { return (b & 15u) * 0x00204081u & 0x01010101u; }

// The scale and the minimum of unit u of Q4_K and Q5_K: 6 bits each in 12 bytes.
__device__ __forceinline__ void scale_min(const uint8_t* s, int u, int& scale, int& min) {
    if (u < 4) {
        scale = s[u] & 63;
        min = s[u + 4] & 63;
    } else {
        scale = (s[u + 4] & 15) | (s[u - 4] >> 6) << 4;
        min = (s[u + 4] >> 4) | (s[u] >> 6) << 4;
    }
}

// One of the 16 scales of Q3_K: 6 bits less 32.
__device__ __forceinline__ int scale_q3k(const uint8_t* s, int i) {
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    return (low | (s[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32;
}

// d and m of unit `u` of a block.
template <int KIND> __device__ __forceinline__ void unit_scales(const uint8_t* b, int u, float (&d)[2], float (&m)[2]) {
    m[0] = m[1] = 0.0f;
    if constexpr (KIND == Q4_0 || KIND == Q4_1 || KIND == Q5_0 || KIND == Q5_1) {
        d[0] = half_at(b);
        m[0] = KIND == Q4_1 || KIND == Q5_1 ? -half_at(b + 2) : d[0] * (KIND == Q5_0 ? 16.0f : 8.0f);
    } else if constexpr (KIND == Q8_0 || KIND == Q8_1) {
        d[0] = half_at(b);
    } else if constexpr (KIND == Q8K) {
        d[0] = *(const float*)b;
    } else if constexpr (KIND == Q4K || KIND == Q5K) {
        int scale, min;
        scale_min(b + 4, u, scale, min);
        d[0] = half_at(b) * scale;
        m[0] = half_at(b + 2) * min;
    } else if constexpr (KIND == Q6K) {
        const float all = half_at(b + 208);
        d[0] = all * ((const int8_t*)b)[192 + 2 * u];
        d[1] = all * ((const int8_t*)b)[193 + 2 * u];
    } else if constexpr (KIND == Q3K) {
        const float all = half_at(b + 108);
        d[0] = all * scale_q3k(b + 96, 2 * u);
        d[1] = all * scale_q3k(b + 96, 2 * u + 1);
    } else if constexpr (KIND == Q2K) {
        const float all = half_at(b + 80), min = half_at(b + 82);
#pragma unroll
        for (int s = 0; s < 2; s++) {
            d[s] = all * (b[2 * u + s] & 15);
            m[s] = min * (b[2 * u + s] >> 4);
        }
    }
}

// Four codes of each half of unit `u` of a block: q[j] and q[4 + j].
template <int KIND> __device__ __forceinline__ void unit_words(const uint8_t* b, int u, int j, int& first, int& last) {
    if constexpr (KIND == Q4_0 || KIND == Q4_1 || KIND == Q5_0 || KIND == Q5_1) {
        constexpr bool fifth = KIND == Q5_0 || KIND == Q5_1;
        constexpr int head = KIND == Q4_1 || KIND == Q5_1 ? 4 : 2;
        const uint32_t bits = fifth ? load2(b + head) : 0, w = load2(b + head + (fifth ? 4 : 0) + 4 * j);
        first = (w & 0x0f0f0f0fu) | (fifth ? spread(bits >> 4 * j) << 4 : 0);
        last = (w >> 4 & 0x0f0f0f0fu) | (fifth ? spread(bits >> (16 + 4 * j)) << 4 : 0);
    } else if constexpr (KIND == Q8_0 || KIND == Q8_1) {
        first = load2(b + (KIND == Q8_0 ? 2 : 4) + 4 * j);
        last = load2(b + (KIND == Q8_0 ? 18 : 20) + 4 * j);
    } else if constexpr (KIND == Q8K) {
        first = load4(b + 4 + 32 * u + 4 * j);
        last = load4(b + 20 + 32 * u + 4 * j);
    } else if constexpr (KIND == Q4K || KIND == Q5K) {
        const uint8_t* low = b + (KIND == Q4K ? 16 : 48) + 32 * (u / 2) + 4 * j;
        first = load4(low) >> 4 * (u & 1) & 0x0f0f0f0fu;
        last = load4(low + 16) >> 4 * (u & 1) & 0x0f0f0f0fu;
        if (KIND == Q5K) {
            first |= (load4(b + 16 + 4 * j) >> u & 0x01010101u) << 4;
            last |= (load4(b + 32 + 4 * j) >> u & 0x01010101u) << 4;
        }
    } else if constexpr (KIND == Q6K) {
        const uint8_t *low = b + 64 * (u / 4) + 32 * (u & 1) + 4 * j, *high = b + 128 + 32 * (u / 4) + 4 * j;
        const uint32_t l0 = load2(low) >> 4 * (u >> 1 & 1), h0 = load2(high) >> 2 * (u & 3);
        const uint32_t l1 = load2(low + 16) >> 4 * (u >> 1 & 1), h1 = load2(high + 16) >> 2 * (u & 3);
        first = __vsub4((l0 & 0x0f0f0f0fu) | (h0 & 0x03030303u) << 4, 0x20202020u);
        last = __vsub4((l1 & 0x0f0f0f0fu) | (h1 & 0x03030303u) << 4, 0x20202020u);
    } else if constexpr (KIND == Q3K) {
        const uint8_t *low = b + 32 + 32 * (u / 4) + 4 * j, *high = b + 4 * j;
        const uint32_t l0 = load2(low) >> 2 * (u & 3), h0 = load2(high) >> u;
        const uint32_t l1 = load2(low + 16) >> 2 * (u & 3), h1 = load2(high + 16) >> u;
        first = __vsub4((l0 & 0x03030303u) | (h0 & 0x01010101u) << 2, 0x04040404u);
        last = __vsub4((l1 & 0x03030303u) | (h1 & 0x01010101u) << 2, 0x04040404u);
    } else if constexpr (KIND == Q2K) {
        const uint8_t* low = b + 16 + 32 * (u / 4) + 4 * j;
        first = load4(low) >> 2 * (u & 3) & 0x03030303u;
        last = load4(low + 16) >> 2 * (u & 3) & 0x03030303u;
    }
}

// Unit `index` of a row.
template <int KIND> __device__ __forceinline__ void load_unit(const uint8_t* row, int index, Unit& unit) {
    const int u = is_super(KIND) ? index % 8 : 0;
    const uint8_t* b = row + (size_t)(is_super(KIND) ? index / 8 : index) * block_bytes(KIND);
    unit_scales<KIND>(b, u, unit.d, unit.m);
#pragma unroll
    for (int j = 0; j < 4; j++) unit_words<KIND>(b, u, j, unit.q[j], unit.q[4 + j]);
}

// Element `e` of a row of floats.
template <int KIND> __device__ __forceinline__ float load_float(const uint8_t* row, int e) {
    if constexpr (KIND == F16) return __half2float(((const __half*)row)[e]);
    if constexpr (KIND == BF16) return __bfloat162float(((const __nv_bfloat16*)row)[e]);
    return ((const float*)row)[e];
}

// Bytes of a row of k elements.
__device__ __forceinline__ size_t row_bytes(int kind, int k) {
    return (size_t)(is_float(kind) ? k : k / (is_super(kind) ? 256 : 32)) * block_bytes(kind);
}

// Calls f with the kind as a constant.
template <class F> __device__ __forceinline__ void with_kind(int kind, F f) {
    switch (kind) {
#define KIND(K)                                      \
    case K: f.template operator()<K>(); break;
        KIND(F32) KIND(F16) KIND(BF16) KIND(Q4_0) KIND(Q4_1) KIND(Q5_0) KIND(Q5_1) KIND(Q8_0)
        KIND(Q8_1) KIND(Q2K) KIND(Q3K) KIND(Q4K) KIND(Q5K) KIND(Q6K) KIND(Q8K)
#undef KIND
    }
}
