// Attention over activations, on tensor cores: encoders and cross attention.
#include "few.cuh"
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

__device__ __forceinline__ int length_of(const Dense& a, int item) {
    return a.lengths ? min(max(a.lengths[item], 0), a.kv_len) : a.kv_len;
}

// One past the last key that a token sees.
__device__ __forceinline__ int end_of(const Dense& a, int length, int token) {
    return a.causal ? min(max(length - a.q_len, 0) + token + 1, length) : length;
}

// Grid (tiles of q_len, kv_heads, batch), 128 threads.
template <int DIM, int TILES> __device__ void attend_dense(const Dense& a) {
    extern __shared__ __align__(16) uint8_t shared[];
    using Tile = Flash<Floats<DIM>, TILES>;
    const int group = a.heads / a.kv_heads, each = Tile::ROWS / group, kv = blockIdx.y, item = blockIdx.z, first = blockIdx.x * each;
    const int length = length_of(a, item);
    const Queries queries{a.q + item * a.q_item, a.out + (size_t)item * a.q_len * a.heads * a.head_dim, nullptr, nullptr, a.q_stride,
                          first, min(each, a.q_len - first), kv * group, group, a.heads, a.head_dim, a.scale};
    Seen<TILES> seen;
    find_seen(queries, seen, [&](int token, int&, int& end) {
        end = end_of(a, length, token);
        return true;
    });
    Floats<DIM> source;
    source.k = a.k + item * a.k_item + (size_t)kv * a.head_dim, source.v = a.v + item * a.v_item + (size_t)kv * a.head_dim;
    source.k_stride = a.k_stride, source.v_stride = a.v_stride;
    source.length = length, source.width = a.head_dim;
    source.keys = (__half*)(shared + Tile::QUERY_BYTES), source.values = source.keys + source.KEYS * (DIM + 8);
    Tile flash;
    flash.load(queries, (__half*)shared);
    flash.run(source, seen, 0, end_of(a, length, first + queries.count - 1));
    flash.store(queries, seen);
}

// Keys and values as a few rows read them.
template <int DIM_> struct Strided {
    static constexpr int DIM = DIM_;
    const float *k, *v; // of the head
    size_t k_stride, v_stride;
    int length, width, position;

    __device__ __forceinline__ void at(int p) { position = p; }

    __device__ __forceinline__ uint4 halves(const float* from, size_t stride, int i, int e) const {
        if (e >= width || position + i >= length) return make_uint4(0, 0, 0, 0);
        const float4* at = (const float4*)(from + (position + i) * stride + e);
        const float4 low = __ldg(at), high = __ldg(at + 1);
        return make_uint4(pack_halves(low.x, low.y), pack_halves(low.z, low.w), pack_halves(high.x, high.y), pack_halves(high.z, high.w));
    }

    __device__ __forceinline__ uint4 key(int i, int e) const { return halves(k, k_stride, i, e); }
    __device__ __forceinline__ uint4 value(int i, int e) const { return halves(v, v_stride, i, e); }
};

// Grid (parts of q_len of 8 / group tokens, kv_heads, batch), 256 threads: the warps share the keys.
template <int DIM> __device__ void attend_few(const Dense& a) {
    extern __shared__ __align__(16) uint8_t shared[];
    const int group = a.heads / a.kv_heads, each = FEW_ROWS / group, kv = blockIdx.y, item = blockIdx.z, first = blockIdx.x * each;
    const int length = length_of(a, item), rows = min(each, a.q_len - first) * group;
    const float* q = a.q + item * a.q_item;
    auto head = [&](int r) { return kv * group + r % group; };
    Few<Strided<DIM>>::load((uint4*)shared, a.scale * LOG2E, a.head_dim, [&](int r) {
        return r < rows ? q + (first + r / group) * a.q_stride + (size_t)head(r) * a.head_dim : nullptr;
    });
    const size_t at = (size_t)kv * a.head_dim;
    Strided<DIM> source{a.k + item * a.k_item + at, a.v + item * a.v_item + at, a.k_stride, a.v_stride, length, a.head_dim, 0};
    const int mine = threadIdx.x % 32 / 4, end = mine < rows ? end_of(a, length, first + mine / group) : 0;
    const int last = end_of(a, length, first + (rows - 1) / group);
    Few<Strided<DIM>> few;
    for (int p = threadIdx.x / 32 * FEW_KEYS; p < last; p += blockDim.x) few.take(source, (const uint4*)shared, p, 0, end);
    few.finish((float*)shared, rows, [&](int r, float, float sum, int e, float v) {
        const size_t token = (size_t)item * a.q_len + first + r / group;
        if (e < a.head_dim) a.out[(token * a.heads + head(r)) * a.head_dim + e] = sum == 0.0f ? 0.0f : v / sum;
    });
}

#define ATTEND(DIM, BLOCKS)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, BLOCKS) attend_dense_##DIM(const __grid_constant__ Dense a) { \
        attend_dense<DIM, 1>(a);                                                                                              \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) attend_few_##DIM(const __grid_constant__ Dense a) { attend_few<DIM>(a); }
ATTEND(32, 3)
ATTEND(64, 3)
ATTEND(80, 2)
ATTEND(96, 2)
ATTEND(128, 2)
