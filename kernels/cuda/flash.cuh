// Attention of a tile of rows on tensor cores: scores, softmax on the way, weighted values, over tiles of KEYS keys.
//
// Rows of a tile are pairs of a token and one of the query heads that share a key head, so that few tokens fill it too. Four warps
// have 16 * TILES of them each. Scores and sums stay in registers; queries do where there is room, else in shared memory.
//
// By counting, for 64 rows, 64 keys and heads of 128: 2^20 multiply-adds are 1,024 clocks of a multiprocessor's tensor cores on sm_80
// and 4,096 on sm_89 and sm_120 (1,024 and 256 a clock). Its 256 matrices of 512 bytes are 1,024 clocks of shared memory, and the 32 KB
// that come from the cache 256 more: at most 80% of the peak on sm_80, while elsewhere products are the bound. A warp issues 128
// products, 64 loads of matrices and about 350 other instructions (five for each of 32 scores a thread, 64 to shrink sums, copies): 550
// clocks beside them. In 8 bits, making halves of the codes adds about 250. Not measured on a GPU.
#pragma once
#include "mma.cuh"

constexpr int FLASH_THREADS = 128;

// What the rows of a tile are and where their results go.
struct Queries {
    const float* q;  // rows of tokens, `stride` elements apart, heads of `width`
    float* out;      // (tokens, heads, width)
    int8_t* out_q;   // the same in 8 bits, or null
    float2* out_scale;
    size_t stride;
    int first, count; // tokens of the tile
    int head, group;  // its query heads
    int heads, width;
    float scale;
};

// The positions that a thread's rows see, and those of its warp.
template <int TILES> struct Seen {
    int begin[TILES][2], end[TILES][2]; // of rows g and g + 8
    int least, most;                    // any row of the warp sees at most these ..
    int from, to;                       // .. and every row all of these
};

// The smallest and the largest of a warp.
__device__ __forceinline__ int warp_least(int v) { return __reduce_min_sync(ALL, v); }
__device__ __forceinline__ int warp_most(int v) { return __reduce_max_sync(ALL, v); }

// `see(token, begin, end)` tells what a token of the tile sees; false: its rows are left as they are.
template <int TILES, class F> __device__ __forceinline__ void find_seen(const Queries& q, Seen<TILES>& seen, F see) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int least = INT32_MAX, most = 0, from = 0, to = INT32_MAX;
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int token = ((warp * TILES + i) * 16 + 8 * h + lane / 4) / q.group;
            int begin = 0, end = 0;
            if (token < q.count && see(q.first + token, begin, end)) {
                least = min(least, begin), most = max(most, end);
                from = max(from, begin), to = min(to, end);
            } else {
                end = -1;
            }
            seen.begin[i][h] = begin, seen.end[i][h] = end;
        }
    seen.least = warp_least(least), seen.most = warp_most(most);
    seen.from = warp_most(from), seen.to = warp_least(to);
}

// `SOURCE` brings keys and values to shared memory, KEYS positions at a time:
//   DIM, KEYS; keys, values: in shared memory; KEY_ROW, KEY_CHUNK: halves between keys, and between 8 elements of a key;
//   STAGED: whether they arrive in another form, and `convert_*` makes halves of them;
//   fetch_keys, fetch_values, convert_keys, convert_values: of the positions from k on.
template <class SOURCE, int TILES> struct Flash {
    static constexpr int DIM = SOURCE::DIM, KEYS = SOURCE::KEYS;
    static constexpr int VALUE_ROW = DIM + 8; // halves: odd multiples of 16 bytes, so that 8 rows meet all banks
    static constexpr int QUERY_ROW = DIM + 8;
    static constexpr bool HELD = TILES * DIM <= 128; // queries are in registers
    static constexpr int ROWS = 64 * TILES;
    static constexpr int QUERY_BYTES = HELD ? 0 : ROWS * QUERY_ROW * 2;

    float sums[TILES][DIM / 8][4];
    float top[TILES][2], total[TILES][2]; // of rows g and g + 8: largest score, and this thread's share of the sum
    uint32_t query[HELD ? TILES : 1][HELD ? DIM / 16 : 1][4];
    const __half* held; // this warp's queries in shared memory

    // Queries times scale and log2(e) as halves.
    __device__ __forceinline__ void load(const Queries& q, __half* shared) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, t = lane % 4;
        const float by = q.scale * LOG2E;
        __half* own = shared + (size_t)warp * 16 * TILES * QUERY_ROW;
        held = own;
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int in_warp = 16 * i + 8 * h + lane / 4, row = warp * 16 * TILES + in_warp, token = row / q.group;
                const bool there = token < q.count;
                const float* from = q.q + (q.first + token) * q.stride + (size_t)(q.head + row % q.group) * q.width;
#pragma unroll
                for (int k = 0; k < DIM / 8; k++) {
                    const int e = 8 * k + 2 * t;
                    const float2 v = there && e < q.width ? *(const float2*)(from + e) : make_float2(0.0f, 0.0f);
                    const uint32_t pair = pack_halves(v.x * by, v.y * by);
                    if constexpr (HELD) query[i][k / 2][2 * (k % 2) + h] = pair;
                    else *(uint32_t*)(own + (size_t)in_warp * QUERY_ROW + e) = pair;
                }
                top[i][h] = -INFINITY, total[i][h] = 0.0f;
            }
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int n = 0; n < DIM / 8; n++)
#pragma unroll
                for (int c = 0; c < 4; c++) sums[i][n][c] = 0.0f;
        __syncwarp();
    }

    // scores = queries keys^T
    __device__ __forceinline__ void multiply_keys(const SOURCE& s, float (&scores)[TILES][KEYS / 8][4]) const {
        const int lane = threadIdx.x & 31, matrix = lane / 8, in = lane % 8;
        const __half* keys = s.keys + (8 * (matrix / 2) + in) * SOURCE::KEY_ROW + matrix % 2 * SOURCE::KEY_CHUNK;
        const __half* rows = held + (8 * (matrix % 2) + in) * QUERY_ROW + 8 * (matrix / 2);
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int c = 0; c < 4; c++) scores[i][n][c] = 0.0f;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            uint32_t a[TILES][4];
#pragma unroll
            for (int i = 0; i < TILES; i++) {
                if constexpr (!HELD) load_matrices(a[i], rows + 16 * i * QUERY_ROW + 16 * k);
            }
#pragma unroll
            for (int n = 0; n < KEYS / 16; n++) {
                uint32_t b[4];
                load_matrices(b, keys + 16 * n * SOURCE::KEY_ROW + 2 * k * SOURCE::KEY_CHUNK);
#pragma unroll
                for (int i = 0; i < TILES; i++) {
                    const uint32_t* left = HELD ? query[HELD ? i : 0][HELD ? k : 0] : a[i];
                    mma_f16(scores[i][2 * n], left, b[0], b[1]);
                    mma_f16(scores[i][2 * n + 1], left, b[2], b[3]);
                }
            }
        }
    }

    // Scores become weights 2^(score - largest); what was summed before shrinks to the new largest.
    __device__ __forceinline__ void weigh(float (&scores)[TILES][KEYS / 8][4]) {
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float most = top[i][h];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(scores[i][n][2 * h], scores[i][n][2 * h + 1]));
                most = fmaxf(most, __shfl_xor_sync(ALL, most, 1));
                most = fmaxf(most, __shfl_xor_sync(ALL, most, 2));
                const float base = most == -INFINITY ? 0.0f : most; // nothing was seen yet
                const float shrink = exp2_fast(top[i][h] - base);
                top[i][h] = most;
                float sum = 0.0f;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                    for (int c = 2 * h; c < 2 * h + 2; c++) {
                        scores[i][n][c] = exp2_fast(scores[i][n][c] - base);
                        sum += scores[i][n][c];
                    }
                total[i][h] = total[i][h] * shrink + sum;
#pragma unroll
                for (int n = 0; n < DIM / 8; n++) sums[i][n][2 * h] *= shrink, sums[i][n][2 * h + 1] *= shrink;
            }
    }

    // sums += weights values
    __device__ __forceinline__ void multiply_values(const SOURCE& s, const float (&weights)[TILES][KEYS / 8][4]) {
        const int lane = threadIdx.x & 31, matrix = lane / 8, in = lane % 8;
        const __half* values = s.values + (8 * (matrix % 2) + in) * VALUE_ROW + 8 * (matrix / 2);
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            uint32_t a[TILES][4];
#pragma unroll
            for (int i = 0; i < TILES; i++)
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const float(&w)[4] = weights[i][2 * k + r / 2];
                    a[i][r] = pack_halves(w[2 * (r % 2)], w[2 * (r % 2) + 1]);
                }
#pragma unroll
            for (int n = 0; n < DIM / 16; n++) {
                uint32_t b[4];
                load_transposed(b, values + 16 * k * VALUE_ROW + 16 * n);
#pragma unroll
                for (int i = 0; i < TILES; i++) {
                    mma_f16(sums[i][2 * n], a[i], b[0], b[1]);
                    mma_f16(sums[i][2 * n + 1], a[i], b[2], b[3]);
                }
            }
        }
    }

    // All keys of positions low..high, low a multiple of KEYS.
    __device__ __forceinline__ void run(SOURCE& s, const Seen<TILES>& seen, int low, int high) {
        const int t = threadIdx.x % 4;
        s.fetch_keys(low);
        copy_commit();
        for (int k = low; k < high; k += KEYS) {
            const bool more = k + KEYS < high, mine = k < seen.most && k + KEYS > seen.least;
            float scores[TILES][KEYS / 8][4];
            __syncthreads(); // nobody reads the values before these any more
            s.fetch_values(k);
            copy_commit();
            copy_wait<1>();
            __syncthreads(); // the keys are here
            if constexpr (SOURCE::STAGED) {
                s.convert_keys(k);
                __syncthreads();
                if (more) s.fetch_keys(k + KEYS);
                copy_commit();
            }
            if (mine) multiply_keys(s, scores);
            if constexpr (!SOURCE::STAGED) {
                __syncthreads();
                if (more) s.fetch_keys(k + KEYS);
                copy_commit();
            }
            if (mine && (k < seen.from || k + KEYS > seen.to)) {
#pragma unroll
                for (int i = 0; i < TILES; i++)
#pragma unroll
                    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                        for (int c = 0; c < 4; c++) {
                            const int p = k + 8 * n + 2 * t + c % 2;
                            if (p < seen.begin[i][c / 2] || p >= seen.end[i][c / 2]) scores[i][n][c] = -INFINITY;
                        }
            }
            if (mine) weigh(scores);
            copy_wait<1>();
            __syncthreads(); // the values are here
            if constexpr (SOURCE::STAGED) {
                s.convert_values(k);
                __syncthreads();
            }
            if (mine) multiply_values(s, scores);
        }
    }

    // Divides by the sums and writes the rows that have a token.
    __device__ __forceinline__ void store(const Queries& q, const Seen<TILES>& seen) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, t = lane % 4;
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float sum = total[i][h];
                sum += __shfl_xor_sync(ALL, sum, 1);
                sum += __shfl_xor_sync(ALL, sum, 2);
                const float by = sum == 0.0f ? 0.0f : 1.0f / sum; // 0: there was no key
                const int row = (warp * TILES + i) * 16 + 8 * h + lane / 4;
                const bool there = seen.end[i][h] >= 0;
                const size_t at = ((size_t)(q.first + row / q.group) * q.heads + q.head + row % q.group) * q.width;
#pragma unroll
                for (int n = 0; n < DIM / 8; n++) {
                    sums[i][n][2 * h] *= by, sums[i][n][2 * h + 1] *= by;
                    if (there && 8 * n + 2 * t < q.width)
                        *(float2*)(q.out + at + 8 * n + 2 * t) = make_float2(sums[i][n][2 * h], sums[i][n][2 * h + 1]);
                }
                if constexpr (DIM % 32 == 0)
                    if (q.out_q) {
#pragma unroll
                        for (int u = 0; u < DIM / 32; u++) quantize_row(q, there, at + 32 * u, &sums[i][4 * u], h);
                    }
            }
    }

    // 32 elements that four threads have, as `quantize_unit` puts them.
    __device__ __forceinline__ static void quantize_row(const Queries& q, bool there, size_t at, const float (*v)[4], int h) {
        const int t = threadIdx.x % 4;
        float most = 0.0f, sum = 0.0f;
#pragma unroll
        for (int n = 0; n < 4; n++) most = fmaxf(most, fmaxf(fabsf(v[n][2 * h]), fabsf(v[n][2 * h + 1])));
        most = fmaxf(most, __shfl_xor_sync(ALL, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL, most, 2));
        const float d = most / 127.0f;
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const int low = d > 0.0f ? __float2int_rn(v[n][2 * h] / d) : 0, high = d > 0.0f ? __float2int_rn(v[n][2 * h + 1] / d) : 0;
            sum += (float)(low + high);
            if (there) *(char2*)(q.out_q + at + 8 * n + 2 * t) = make_char2((int8_t)low, (int8_t)high);
        }
        sum += __shfl_xor_sync(ALL, sum, 1);
        sum += __shfl_xor_sync(ALL, sum, 2);
        if (there && t == 0) q.out_scale[at / 32] = make_float2(d, d * sum);
    }
};
