// The paged store of keys and values.
//
// A block of the store holds 128 positions of all layers; of a head, keys lie as (head_dim / W, 128, W) where W elements are 16 bytes,
// so that threads that take a position each read consecutive 16 bytes, and values as (128, head_dim). In 8 bits each 32 elements
// share an f16 scale; the scales lie as (subs, 128) behind the keys and behind the values.
#pragma once
#include "common.cuh"

constexpr int POSITIONS = 128; // of a block of the store
constexpr int SUB = 32;        // elements that share a scale in 8 bits

// In the order of `KIND` in attention.rs.
enum Element { HALVES, BYTES };

// Bytes of 128 keys or values, and of their scales.
__host__ __device__ constexpr int codes_bytes(int kind, int dim) { return POSITIONS * dim * (kind == HALVES ? 2 : 1); }
__host__ __device__ constexpr int scales_bytes(int kind, int dim) {
    return kind == HALVES ? 0 : POSITIONS * ((dim + SUB - 1) / SUB) * 2;
}

// Byte offsets within the part of a block that a head of a layer has; keys begin it.
struct Layout {
    int key_scales, values, value_scales;
};
__host__ __device__ constexpr Layout layout_of(int kind, int dim) {
    const int codes = codes_bytes(kind, dim), scales = scales_bytes(kind, dim);
    return {codes, codes + scales, 2 * codes + scales};
}

struct Store {
    uint8_t* data;
    const int* tables;    // (sequences, table) blocks of each sequence
    const int* sequences; // (m) the row of the tables that each row has
    int table;            // length of a row of tables
    size_t block;         // bytes of a block
    size_t head;          // bytes of a head of a layer in it
    int layer, kv_heads, head_dim, kind;
};

// What head `kv_head` of the layer has of the block that holds `position` of a sequence.
__device__ __forceinline__ uint8_t* head_of(const Store& s, int sequence, int position, int kv_head) {
    const size_t block = s.tables[(size_t)sequence * s.table + position / POSITIONS];
    return s.data + block * s.block + (size_t)(s.layer * s.kv_heads + kv_head) * s.head;
}

// Two codes of a word of four, as halves: code + 128 are the low bits of 1024 + 128 + code, so that no conversion is needed.
__device__ __forceinline__ __half2 code_pair(uint32_t word, int high) {
    const uint32_t pair = __byte_perm(word ^ 0x80808080u, 0x64646464u, high ? 0x4342 : 0x4140);
    return __hsub2(*(const __half2*)&pair, __float2half2_rn(1152.0f));
}
