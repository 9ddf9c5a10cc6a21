// Attention over activations, on tensor cores: encoders and cross attention.
#include "flash.cuh"

struct Dense {
    const float *q, *k, *v; // rows of tokens that lie `*_stride` elements apart, items of the batch `*_item`
    size_t q_stride, k_stride, v_stride, q_item, k_item, v_item;
    const int* lengths; // (batch) keys of each item, or null: kv_len of all
    int q_len, kv_len, heads, kv_heads, head_dim, causal;
    float scale;
    float* out; // (batch, q_len, heads, head_dim)
};

// Keys and values in floats, rounded to halves on their way. Elements from `width` on are zeros.
template <int DIM_> struct Floats {
    static constexpr int DIM = DIM_, KEYS = 64, KEY_ROW = DIM + 8, KEY_CHUNK = 8;
    static constexpr bool STAGED = false;
    const float *k, *v; // of the head
    size_t k_stride, v_stride;
    int length, width;
    __half *keys, *values; // (KEYS, DIM + 8)

    __device__ __forceinline__ void fetch(__half* to, const float* from, size_t stride, int first) const {
#pragma unroll 4
        for (int i = threadIdx.x; i < KEYS * DIM / 8; i += FLASH_THREADS) {
            const int p = i / (DIM / 8), e = i % (DIM / 8) * 8;
            float4 low = make_float4(0.0f, 0.0f, 0.0f, 0.0f), high = low;
            if (first + p < length && e < width) {
                const float4* at = (const float4*)(from + (first + p) * stride + e);
                low = __ldg(at), high = __ldg(at + 1);
            }
            *(uint4*)(to + p * (DIM + 8) + e) =
                make_uint4(pack_halves(low.x, low.y), pack_halves(low.z, low.w), pack_halves(high.x, high.y), pack_halves(high.z, high.w));
        }
    }

    __device__ __forceinline__ void fetch_keys(int first) const { fetch(keys, k, k_stride, first); }
    __device__ __forceinline__ void fetch_values(int first) const { fetch(values, v, v_stride, first); }
    __device__ void convert_keys(int) const {}
    __device__ void convert_values(int) const {}
};

// Grid (tiles of q_len, kv_heads, batch), 128 threads.
template <int DIM, int TILES> __device__ void attend_dense(const Dense& a) {
    extern __shared__ __align__(16) uint8_t shared[];
    using Tile = Flash<Floats<DIM>, TILES>;
    const int group = a.heads / a.kv_heads, each = Tile::ROWS / group, kv = blockIdx.y, item = blockIdx.z, first = blockIdx.x * each;
    const int length = a.lengths ? min(max(a.lengths[item], 0), a.kv_len) : a.kv_len;
    const Queries queries{a.q + item * a.q_item, a.out + (size_t)item * a.q_len * a.heads * a.head_dim, nullptr, nullptr, a.q_stride,
                          first, min(each, a.q_len - first), kv * group, group, a.heads, a.head_dim, a.scale};
    const int before = max(length - a.q_len, 0);
    Seen<TILES> seen;
    find_seen(queries, seen, [&](int token, int&, int& end) {
        end = a.causal ? min(before + token + 1, length) : length;
        return true;
    });
    Floats<DIM> source;
    source.k = a.k + item * a.k_item + (size_t)kv * a.head_dim, source.v = a.v + item * a.v_item + (size_t)kv * a.head_dim;
    source.k_stride = a.k_stride, source.v_stride = a.v_stride;
    source.length = length, source.width = a.head_dim;
    source.keys = (__half*)(shared + Tile::QUERY_BYTES), source.values = source.keys + source.KEYS * (DIM + 8);
    Tile flash;
    flash.load(queries, (__half*)shared);
    flash.run(source, seen, 0, a.causal ? min(before + first + queries.count, length) : length);
    flash.store(queries, seen);
}

#define ATTEND(DIM, TILES)                                                                                            \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS) attend_dense_##DIM(const __grid_constant__ Dense a) { \
        attend_dense<DIM, TILES>(a);                                                                                  \
    }
ATTEND(32, 1)
ATTEND(64, 1)
ATTEND(80, 1)
ATTEND(96, 1)
ATTEND(128, 1)
