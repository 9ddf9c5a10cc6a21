// Attention of many rows over the paged store, on tensor cores: prefill.
#include "flash.cuh"
#include "store.cuh"

// Keys and values in halves: both come as they are read.
template <int DIM_, int KEYS_> struct Halves {
    static constexpr int DIM = DIM_, KEYS = KEYS_, KEY_ROW = 8, KEY_CHUNK = 8 * KEYS;
    static constexpr bool STAGED = false;
    const Store& store;
    int sequence, kv, low, high; // positions outside low..high may hold anything: zeros come instead
    __half *keys, *values;       // (DIM / 8, KEYS, 8), (KEYS, DIM + 8)

    __device__ Halves(const Store& store, uint8_t* shared) : store(store), keys((__half*)shared), values(keys + KEYS * DIM) {}

    __device__ __forceinline__ void fetch_keys(int k) const {
        const __half* from = (const __half*)head_of(store, sequence, k, kv) + k % POSITIONS * 8;
#pragma unroll
        for (int i = threadIdx.x; i < KEYS * DIM / 8; i += FLASH_THREADS) {
            const int p = i % KEYS, chunk = i / KEYS;
            copy16(keys + 8 * i, from + (chunk * POSITIONS + p) * 8, k + p >= low && k + p < high);
        }
    }

    __device__ __forceinline__ void fetch_values(int k) const {
        const __half* from = (const __half*)(head_of(store, sequence, k, kv) + layout_of(HALVES, DIM).values) + k % POSITIONS * DIM;
#pragma unroll
        for (int i = threadIdx.x; i < KEYS * DIM / 8; i += FLASH_THREADS) {
            const int p = i / (DIM / 8), chunk = i % (DIM / 8);
            copy16(values + p * (DIM + 8) + 8 * chunk, from + 8 * i, k + p >= low && k + p < high);
        }
    }

    __device__ void convert_keys(int) const {}
    __device__ void convert_values(int) const {}
};

// Keys and values in 8 bits: codes and scales come as they are, and halves are made of them in shared memory, once for all rows.
template <int DIM_, int KEYS_> struct Bytes {
    static constexpr int DIM = DIM_, KEYS = KEYS_, KEY_ROW = 8, KEY_CHUNK = 8 * KEYS, SUBS = (DIM + SUB - 1) / SUB;
    static constexpr bool STAGED = true;
    const Store& store;
    int sequence, kv, low, high;
    __half *keys, *values;
    uint8_t *key_codes, *value_codes;      // (DIM / 16, KEYS, 16), (KEYS, DIM)
    __half *key_scales, *value_scales;     // (SUBS, KEYS)

    __device__ Bytes(const Store& store, uint8_t* shared) : store(store), keys((__half*)shared), values(keys + KEYS * DIM) {
        key_codes = (uint8_t*)(values + KEYS * (DIM + 8));
        value_codes = key_codes + KEYS * DIM;
        key_scales = (__half*)(value_codes + KEYS * DIM);
        value_scales = key_scales + KEYS * SUBS;
    }

    // Scales (SUBS, 128) from position k on to (SUBS, KEYS).
    __device__ __forceinline__ static void fetch_scales(__half* to, const uint8_t* scales, int k) {
        for (int i = threadIdx.x; i < SUBS * KEYS / 8; i += FLASH_THREADS)
            copy16(to + 8 * i, (const __half*)scales + i / (KEYS / 8) * POSITIONS + k % POSITIONS + i % (KEYS / 8) * 8);
    }

    __device__ __forceinline__ void fetch_keys(int k) const {
        const uint8_t* head = head_of(store, sequence, k, kv);
#pragma unroll
        for (int i = threadIdx.x; i < KEYS * DIM / 16; i += FLASH_THREADS)
            copy16(key_codes + 16 * i, head + (i / KEYS * POSITIONS + k % POSITIONS + i % KEYS) * 16);
        fetch_scales(key_scales, head + layout_of(BYTES, DIM).key_scales, k);
    }

    __device__ __forceinline__ void fetch_values(int k) const {
        const uint8_t* head = head_of(store, sequence, k, kv);
        const uint8_t* from = head + layout_of(BYTES, DIM).values + k % POSITIONS * DIM;
#pragma unroll
        for (int i = threadIdx.x; i < KEYS * DIM / 16; i += FLASH_THREADS) copy16(value_codes + 16 * i, from + 16 * i);
        fetch_scales(value_scales, head + layout_of(BYTES, DIM).value_scales, k);
    }

    // 16 codes as halves: the first eight at `to`, the others `apart` halves on. Without a scale: zeros.
    __device__ __forceinline__ static void convert(const uint8_t* codes, __half scale, __half* to, int apart) {
        const uint4 words = *(const uint4*)codes;
        const __half2 by = __half2half2(scale);
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
        __half2 pairs[8];
#pragma unroll
        for (int j = 0; j < 8; j++) pairs[j] = __hmul2(code_pair(word[j / 2], j % 2), by);
        *(uint4*)to = *(const uint4*)pairs;
        *(uint4*)(to + apart) = *(const uint4*)(pairs + 4);
    }

    __device__ __forceinline__ __half scale_of(const __half* scales, int k, int p, int chunk) const {
        return k + p >= low && k + p < high ? scales[chunk / 2 * KEYS + p] : __float2half_rn(0.0f);
    }

    __device__ __forceinline__ void convert_keys(int k) const {
#pragma unroll 2
        for (int i = threadIdx.x; i < KEYS * DIM / 16; i += FLASH_THREADS) {
            const int p = i % KEYS, chunk = i / KEYS;
            convert(key_codes + 16 * i, scale_of(key_scales, k, p, chunk), keys + 2 * chunk * KEY_CHUNK + 8 * p, KEY_CHUNK);
        }
    }

    __device__ __forceinline__ void convert_values(int k) const {
#pragma unroll 2
        for (int i = threadIdx.x; i < KEYS * DIM / 16; i += FLASH_THREADS) {
            const int p = i / (DIM / 16), chunk = i % (DIM / 16);
            convert(value_codes + 16 * i, scale_of(value_scales, k, p, chunk), values + p * (DIM + 8) + 16 * chunk, 8);
        }
    }
};

struct AttendRows {
    const float* q;       // (m, heads, head_dim)
    const int* positions; // (m): each row sees the positions up to its own; negative: the row is empty
    const int* spans;     // (3, sequences): first row, number of rows, and the position up to which they all see at least, or -1
    int sequences, rows, heads, window; // window: positions seen at most, 0: all
    float scale;
    float* out;    // (m, heads, head_dim)
    int8_t* out_q; // the same in 8 bits
    float2* out_scale;
    Store store;
};

// Grid (rows / tokens of a tile + sequences, kv_heads), 128 threads: a thread block finds its tile of a sequence, or that there is none.
template <class SOURCE, int TILES> __device__ void attend_rows(const AttendRows& a) {
    extern __shared__ __align__(16) uint8_t shared[];
    __shared__ int lows[4], highs[4];
    using Tile = Flash<SOURCE, TILES>;
    const int group = a.heads / a.store.kv_heads, each = Tile::ROWS / group, warp = threadIdx.x >> 5;
    // the last tile of a sequence sees most: it begins first
    int tile = gridDim.x - 1 - blockIdx.x, sequence = 0, first = 0, count = 0;
    for (; sequence < a.sequences; sequence++) {
        first = max(a.spans[sequence], 0);
        count = min(a.spans[a.sequences + sequence], a.rows - first);
        const int tiles = (max(count, 0) + each - 1) / each;
        if (tile < tiles) break;
        tile -= tiles;
    }
    if (sequence == a.sequences) return;
    const Queries queries{a.q, a.out, a.out_q, a.out_scale, (size_t)a.heads * SOURCE::DIM, first + tile * each,
                          min(each, count - tile * each), (int)blockIdx.y * group, group, a.heads, SOURCE::DIM, a.scale};
    const int sees = a.spans[2 * a.sequences + sequence];
    Seen<TILES> seen;
    find_seen(queries, seen, [&](int token, int& begin, int& end) {
        const int position = a.positions[token];
        begin = a.window ? max(position + 1 - a.window, 0) : 0;
        end = max(position, sees) + 1;
        return position >= 0;
    });
    if (threadIdx.x % 32 == 0) lows[warp] = seen.least, highs[warp] = seen.most;
    __syncthreads();
    SOURCE source(a.store, shared + Tile::QUERY_BYTES);
    source.sequence = sequence, source.kv = blockIdx.y;
    source.low = min(min(lows[0], lows[1]), min(lows[2], lows[3]));
    source.high = max(max(highs[0], highs[1]), max(highs[2], highs[3]));
    if (source.high == 0) return; // all rows of the tile are empty
    Tile flash;
    flash.load(queries, (__half*)shared);
    flash.run(source, seen, source.low / SOURCE::KEYS * SOURCE::KEYS, source.high);
    flash.store(queries, seen);
}

// Keys of a tile and thread blocks of a multiprocessor (which bounds registers), in halves and in 8 bits.
#define ATTEND(DIM, KEYS, BLOCKS, KEYS_Q8, BLOCKS_Q8)                                                                             \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, BLOCKS) attend_rows_##DIM(const __grid_constant__ AttendRows a) { \
        attend_rows<Halves<DIM, KEYS>, 1>(a);                                                                                     \
    }                                                                                                                             \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, BLOCKS_Q8) attend_rows_##DIM##_q8(                                \
        const __grid_constant__ AttendRows a) {                                                                                   \
        attend_rows<Bytes<DIM, KEYS_Q8>, 1>(a);                                                                                   \
    }
ATTEND(16, 64, 3, 64, 3)
ATTEND(32, 64, 3, 64, 3)
ATTEND(64, 64, 3, 64, 3)
ATTEND(80, 64, 3, 64, 2)
ATTEND(96, 64, 2, 64, 2)
ATTEND(128, 64, 2, 32, 3)
ATTEND(256, 32, 2, 32, 2)
