// Products of many rows of activations by weights as they lie in the file: prefill and encoders are bound by arithmetic.
//
// A thread block makes a tile of the result on tensor cores. Quantized weights are copied to shared memory as they are, in slices of
// one large block or four small ones; a lane takes its codes out of the slice straight into registers of the mma, so that unpacked
// weights lie nowhere. What a unit's 32 codes have in common, its scale and minimum, one thread takes apart for the whole tile.
// Activations come in 8 bits, or in floats that are rounded to the weights' type.
#include "formats.cuh"
#include "mma.cuh"

enum Store { SET, ADD, MULTIPLY }; // what becomes of `out`

struct Gemm {
    Part part[3]; // as many as the grid has tiles for, all of one kind
    int m, k;
    int activation, store;
    const float* x;      // (m, k) where weights are floats
    const int8_t* q;     // (m, k) x in 8 bits, where they are not
    const float2* scale; // (m, k / 32)
    int8_t* out_q;       // the first part's result in 8 bits, too; null: not wanted
    float2* out_scale;
};

constexpr int STEP = 64; // bytes of k in a tile in shared memory: two units of codes, 32 halves, or 16 floats

// A tile of rows by columns, made by WM x WN warps of MF fragments of 16 rows by four fragments of 8 columns.
template <int MF_, int WM_, int WN_> struct Tile {
    static constexpr int MF = MF_, WM = WM_, WN = WN_;
    static constexpr int ROWS = 16 * MF * WM, COLUMNS = 32 * WN, THREADS = 32 * WM * WN;
};
using Large = Tile<4, 2, 4>; // 128 x 128
using Small = Tile<2, 2, 2>; // 64 x 64

constexpr int PATCH = 40; // floats of a row of the result in shared memory: two rows of lanes meet no bank twice

// Where a block and a lane work.
template <class T> struct Place {
    const Part* part;
    int row, column; // first of the tile
    int warp_m, warp_n, g, t;
    int live; // fragments of the warp that have rows

    __device__ __forceinline__ Place(const Gemm& gemm) {
        const int tiles_m = (gemm.m + T::ROWS - 1) / T::ROWS, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
        int tile = blockIdx.x / tiles_m; // blocks that run together share weights
        part = gemm.part;
        for (int tiles; tile >= (tiles = (part->rows + T::COLUMNS - 1) / T::COLUMNS); part++) tile -= tiles;
        row = blockIdx.x % tiles_m * T::ROWS;
        column = tile * T::COLUMNS;
        warp_m = warp / T::WN, warp_n = warp % T::WN, g = lane / 4, t = lane % 4;
        live = min(max((gemm.m - row - 16 * warp_m + 16 * T::WM - 1) / (16 * T::WM), 0), T::MF);
    }
    // Whether a fragment is left out; large tiles save no branches.
    __device__ __forceinline__ bool skips(int i) const { return T::MF < 4 && i >= live; }
    // First row of a fragment: neighbours belong to different warps, so that a last tile of few rows keeps all busy.
    __device__ __forceinline__ int fragment(int i) const { return 16 * (i * T::WM + warp_m); }
};

// 16 bytes `chunk` of a row of a tile: rows of 64 bytes, permuted so that 8 rows of a matrix meet no bank twice.
__device__ __forceinline__ int swizzled(int row, int chunk) { return STEP * row + 16 * (chunk ^ (row >> 1 & 3)); }

// The fragment of 16 rows from `row` on, 32 bytes from chunk 2 * `half` on.
__device__ __forceinline__ void load_fragment(uint32_t (&a)[4], const uint8_t* tile, int row, int half) {
    const int lane = threadIdx.x & 31;
    load_matrices(a, tile + swizzled(row + lane % 16, 2 * half + lane / 16));
}

// Bias, activation, and to memory: each warp turns its fragments over through shared memory, so that a lane has a column.
template <class T>
__device__ __forceinline__ void finish(const Gemm& gemm, const Place<T>& at, float (&sum)[T::MF][4][4], uint8_t* shared) {
    const int lane = threadIdx.x & 31, n = at.part->rows, column = at.column + 32 * at.warp_n + lane;
    float* patch = (float*)shared + (threadIdx.x >> 5) * 16 * PATCH;
    const float bias = at.part->bias && column < n ? at.part->bias[column] : 0.0f;
    __syncthreads(); // nobody reads tiles any more
#pragma unroll
    for (int i = 0; i < T::MF; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float* to = patch + at.g * PATCH + 8 * j + 2 * at.t;
            *(float2*)to = make_float2(sum[i][j][0], sum[i][j][1]);
            *(float2*)(to + 8 * PATCH) = make_float2(sum[i][j][2], sum[i][j][3]);
        }
        __syncwarp();
        const int first = at.row + at.fragment(i), rows = min(16, gemm.m - first);
#pragma unroll 1
        for (int r = 0; r < rows; r++) {
            float v = activate(gemm.activation, patch[r * PATCH + lane] + bias);
            if (column < n) {
                float* out = at.part->out + (size_t)(first + r) * n + column;
                if (gemm.store == ADD) v += *out;
                if (gemm.store == MULTIPLY) v *= *out;
                *out = v;
            }
            if (gemm.out_q && at.column + 32 * at.warp_n < n) { // there are whole 32s of columns then
                const size_t unit = ((size_t)(first + r) * n + column) / 32;
                quantize_unit(v, gemm.out_q + 32 * unit, gemm.out_scale + unit);
            }
        }
        __syncwarp();
    }
}

// Slices of a row of quantized weights: a block of 256 elements, or four blocks of 32.
__host__ __device__ constexpr int slice_units(int kind) { return is_super(kind) ? 8 : 4; }
__host__ __device__ constexpr int slice_stride(int kind) { return block_bytes(kind) * (is_super(kind) ? 1 : 4); }
// What is read of one: sums of Q8_K are not.
__host__ __device__ constexpr int slice_bytes(int kind) { return kind == Q8K ? 260 : slice_stride(kind); }
// Chunks of 16 bytes that hold one wherever it begins; an odd number, so that 8 rows of a fragment meet no bank twice.
__host__ __device__ constexpr int slice_chunks(int kind) {
    int aligned = 16;
    while (block_bytes(kind) % aligned) aligned /= 2;
    return (slice_bytes(kind) + 16 - aligned + 15) / 16 | 1;
}

// The minimum of a unit is taken by the activations' sums. Q4_0 and Q5_0 have none once their codes are signed, and that of Q2_K,
// of 16 elements, is a product of its own.
__host__ __device__ constexpr bool has_minimum(int kind) { return kind == Q4_1 || kind == Q5_1 || kind == Q4K || kind == Q5K; }

// 1.5 * 2^23. As the bits of a float this and a whole number within 2^22 is that float plus the number: with it as the start of a
// sum over integers no conversion is needed, which costs four times a multiplication on many devices. A scale has at most 22 bits of
// mantissa, so that its product with this is exact, and fma(sum, scale, -scale * MAGIC) is the rounded scale times the number.
constexpr float MAGIC = 12582912.0f;
constexpr int MAGIC_BITS = 0x4b400000;

// A tile of quantized weights in shared memory.
template <int KIND, class T> struct Quantized {
    static constexpr int UNITS = slice_units(KIND), CHUNKS = slice_chunks(KIND), ROW = 16 * CHUNKS;
    const Gemm& gemm;
    const Place<T>& at;
    uint8_t* slices; // [2][COLUMNS][ROW]
    uint8_t* codes;  // [2][ROWS][STEP] of the activations
    float2* scales;  // [2][ROWS][2] of the activations
    float2* units;   // [2][2][COLUMNS] of the weights: what units have in common
    static constexpr int BRINGS = T::COLUMNS * 4 / T::THREADS; // columns whose slices a thread brings, with three others
    static constexpr int TAKES = T::ROWS * 4 / T::THREADS;     // rows of which a thread brings 16 codes
    static_assert(T::ROWS * 2 == T::THREADS && T::COLUMNS * 2 == T::THREADS, "one scale and one unit to a thread");
    // Where the thread's next slice, codes and scale lie in memory, null where there is no such column or row.
    const uint8_t* next_slice[BRINGS];
    const int8_t* next_codes[TAKES];
    const float2* next_scale;
    // How far behind a multiple of 16 the first slices lie of the columns whose codes the lane takes, and of the thread's unit; the
    // weights begin at one.
    int behind[4], unit_behind;

    __device__ __forceinline__ Quantized(const Gemm& gemm, const Place<T>& at, uint8_t* shared) : gemm(gemm), at(at) {
        slices = shared;
        codes = slices + 2 * T::COLUMNS * ROW;
        scales = (float2*)(codes + 2 * T::ROWS * STEP);
        units = scales + 2 * T::ROWS * 2;
        const size_t row = row_bytes(KIND, gemm.k);
#pragma unroll
        for (int i = 0; i < BRINGS; i++) {
            const int column = at.column + threadIdx.x / 4 + i * (T::THREADS / 4);
            next_slice[i] = column < at.part->rows ? at.part->weights + column * row : nullptr;
        }
#pragma unroll
        for (int i = 0; i < TAKES; i++) {
            const int from = at.row + threadIdx.x / 4 + i * (T::THREADS / 4);
            next_codes[i] = from < gemm.m ? gemm.q + (size_t)from * gemm.k + 16 * (threadIdx.x % 4) : nullptr;
        }
        const int from = at.row + threadIdx.x / 2;
        next_scale = from < gemm.m ? gemm.scale + (size_t)from * (gemm.k / 32) + threadIdx.x % 2 : nullptr;
#pragma unroll
        for (int j = 0; j < 4; j++) behind[j] = (uint32_t)(at.column + 32 * at.warp_n + 8 * j + at.g) * (uint32_t)row & 15;
        unit_behind = (at.column + threadIdx.x % T::COLUMNS) * (uint32_t)row & 15;
    }

    // Where a slice of a column begins in shared memory: as far behind a multiple of 16 as in memory.
    __device__ __forceinline__ const uint8_t* slice_of(int column, int first_behind, int slice) const {
        const int behind = block_bytes(KIND) % 16 ? (first_behind + (uint32_t)slice * slice_stride(KIND)) & 15 : 0;
        return slices + ((slice & 1) * T::COLUMNS + column) * ROW + behind;
    }

    // Slices in turn.
    __device__ __forceinline__ void fetch_weights(int slice) {
        const int blocks = is_super(KIND) ? 1 : min(UNITS, gemm.k / 32 - slice * UNITS);
        const int bytes = is_super(KIND) ? slice_bytes(KIND) : blocks * block_bytes(KIND);
        uint8_t* to = slices + ((slice & 1) * T::COLUMNS + threadIdx.x / 4) * ROW + 16 * (threadIdx.x % 4);
#pragma unroll
        for (int i = 0; i < BRINGS; i++) {
            if (!next_slice[i]) continue;
            const int behind = (int)((size_t)next_slice[i] & 15), left = behind + bytes - 16 * (threadIdx.x % 4);
            const uint8_t* from = next_slice[i] - behind + 16 * (threadIdx.x % 4);
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; chunk += 4) // buffers are whole 16s
                if (16 * chunk < left) copy16(to + i * (T::THREADS / 4) * ROW + 16 * chunk, from + 16 * chunk);
            next_slice[i] += slice_stride(KIND);
        }
    }

    // Steps in turn.
    __device__ __forceinline__ void fetch_activations(int step) {
        const int left = gemm.k - STEP * step;
        uint8_t* to = codes + (step & 1) * T::ROWS * STEP + swizzled(threadIdx.x / 4, threadIdx.x % 4);
#pragma unroll
        for (int i = 0; i < TAKES; i++) { // rows so far apart are permuted alike
            const bool there = next_codes[i] && 16 * (int)(threadIdx.x % 4) < left;
            copy16(to + i * (T::THREADS / 4) * STEP, there ? next_codes[i] : gemm.q, there);
            if (next_codes[i]) next_codes[i] += STEP;
        }
        const bool there = next_scale && 32 * (int)(threadIdx.x % 2) < left;
        copy8(scales + (step & 1) * T::ROWS * 2 + threadIdx.x, there ? next_scale : gemm.scale, there);
        if (next_scale) next_scale += 2;
    }

    // What the units of a step have in common: d and its product with MAGIC; d and m; or both d of one with halves.
    __device__ __forceinline__ void take_units(int step) {
        const int column = threadIdx.x % T::COLUMNS, unit = 2 * step + threadIdx.x / T::COLUMNS;
        float2 common = make_float2(0.0f, 0.0f);
        if (at.column + column < at.part->rows && unit < gemm.k / 32) {
            const uint8_t* block = slice_of(column, unit_behind, unit / UNITS) + (is_super(KIND) ? 0 : unit % UNITS * block_bytes(KIND));
            float d[2], m[2];
            if constexpr (KIND == Q2K) {
                common = make_float2(half_at(block + 80), half_at(block + 82));
            } else {
                unit_scales<KIND>(block, unit % UNITS, d, m);
                if constexpr (KIND == Q8K) d[0] = __uint_as_float((__float_as_uint(d[0]) + 2) & ~3u); // 22 bits
                common = make_float2(d[0], has_halves(KIND) ? d[1] : has_minimum(KIND) ? m[0] : -MAGIC * d[0]);
            }
        }
        units[(step & 1) * T::COLUMNS * 2 + threadIdx.x] = common;
    }

    // sum += the products of a step.
    __device__ __forceinline__ void multiply(int step, float (&sum)[T::MF][4][4]) {
        const uint8_t* blocks[4]; // of the columns whose codes the lane takes
#pragma unroll
        for (int j = 0; j < 4; j++) blocks[j] = slice_of(32 * at.warp_n + 8 * j + at.g, behind[j], 2 * step / UNITS);
#pragma unroll(has_minimum(KIND) || KIND == Q2K ? 1 : 2) // registers
        for (int half = 0; half < 2; half++) {
            uint32_t a[T::MF][4];
            float2 row[T::MF][2];
#pragma unroll
            for (int i = 0; i < T::MF; i++) {
                if (at.skips(i)) continue;
                load_fragment(a[i], codes + (step & 1) * T::ROWS * STEP, at.fragment(i), half);
#pragma unroll
                for (int r = 0; r < 2; r++) row[i][r] = scales[((step & 1) * T::ROWS + at.fragment(i) + at.g + 8 * r) * 2 + half];
            }
            const int unit = (2 * step + half) % UNITS;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float4 common = *(const float4*)&units[((step & 1) * 2 + half) * T::COLUMNS + 32 * at.warp_n + 8 * j + 2 * at.t];
                products(blocks[j] + (is_super(KIND) ? 0 : unit * block_bytes(KIND)), unit, common, a, row, j, sum);
            }
        }
    }

    // Those of one unit of 8 columns.
    __device__ __forceinline__ void products(const uint8_t* block, int unit, float4 common, const uint32_t (&a)[T::MF][4],
                                             const float2 (&row)[T::MF][2], int j, float (&sum)[T::MF][4][4]) {
        int b0, b1;
        unit_words<KIND>(block, unit, at.t, b0, b1);
        if constexpr (KIND == Q4_0 || KIND == Q5_0) {
            constexpr int middle = KIND == Q4_0 ? 0x08080808 : 0x10101010;
            b0 = __vsub4(b0, middle), b1 = __vsub4(b1, middle);
        }
        uint32_t minimum[2];
        if constexpr (KIND == Q2K) { // codes of 2 bits times their scales of 4 bits fit; so do the minima
            const uint8_t* s = block + 2 * unit;
            b0 *= s[0] & 15, b1 *= s[1] & 15;
            minimum[0] = (s[0] >> 4) * 0x01010101u, minimum[1] = (s[1] >> 4) * 0x01010101u;
        }
        const float d[2] = {common.x, common.z}, other[2] = {common.y, common.w};
        float start[2], other_start[2];
#pragma unroll
        for (int c = 0; c < 2; c++) {
            start[c] = has_halves(KIND) || has_minimum(KIND) ? -MAGIC * d[c] : other[c];
            other_start[c] = -MAGIC * other[c];
        }
#pragma unroll
        for (int i = 0; i < T::MF; i++) {
            if (at.skips(i)) continue;
            int first[4], second[4];
            if constexpr (has_halves(KIND) && KIND != Q2K) {
                mma_s8(first, a[i][0], a[i][1], b0, MAGIC_BITS);
                mma_s8(second, a[i][2], a[i][3], b1, MAGIC_BITS);
            } else {
                mma_s8(first, a[i], b0, b1, MAGIC_BITS);
                if constexpr (KIND == Q2K) mma_s8(second, a[i], minimum[0], minimum[1], MAGIC_BITS);
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int c = e & 1, r = e >> 1;
                float& v = sum[i][j][e];
                v = fmaf(fmaf(__int_as_float(first[e]), d[c], start[c]), row[i][r].x, v);
                if constexpr (has_halves(KIND)) {
                    const float by = KIND == Q2K ? -row[i][r].x : row[i][r].x;
                    v = fmaf(fmaf(__int_as_float(second[e]), other[c], other_start[c]), by, v);
                }
                if constexpr (has_minimum(KIND)) v = fmaf(-other[c], row[i][r].y, v);
            }
        }
    }
};

template <int KIND, class T> __device__ __forceinline__ void gemm_quantized(const Gemm& gemm) {
    extern __shared__ __align__(16) uint8_t shared[];
    const Place<T> at(gemm);
    Quantized<KIND, T> tile(gemm, at, shared);
    constexpr int STEPS = tile.UNITS / 2; // of a slice
    const int steps = (gemm.k / 32 + 1) / 2;
    float sum[T::MF][4][4] = {};
    tile.fetch_weights(0);
    tile.fetch_activations(0);
    wait_copies();
    __syncthreads();
    tile.take_units(0);
    for (int step = 0; step < steps; step++) {
        wait_copies();
        __syncthreads(); // the step's tiles are there, and those of the one before are free
        if (step + 1 < steps) tile.fetch_activations(step + 1);
        if (step % STEPS == 0 && step + STEPS < steps) tile.fetch_weights(step / STEPS + 1); // there at the slice's last step
        if (step + 1 < steps) tile.take_units(step + 1);
        tile.multiply(step, sum);
    }
    finish(gemm, at, sum, shared);
}

// A tile of floats in shared memory, both sides rounded to what tensor cores multiply.
template <int KIND, class T> struct Floats {
    static constexpr int EACH = KIND == F32 ? 4 : 8; // elements in 16 bytes
    static constexpr int XS = T::ROWS * 4 / T::THREADS, WS = T::COLUMNS * 4 / T::THREADS; // 16 bytes that a thread brings
    const Gemm& gemm;
    const Place<T>& at;
    uint8_t* activations; // [2][ROWS][STEP]
    uint8_t* weights;     // [2][COLUMNS][STEP]
    float x[XS][EACH];
    uint4 w[WS];

    __device__ __forceinline__ Floats(const Gemm& gemm, const Place<T>& at, uint8_t* shared) : gemm(gemm), at(at) {
        activations = shared;
        weights = shared + 2 * T::ROWS * STEP;
    }

    // Loads a step into registers.
    __device__ __forceinline__ void fetch(int step) {
        const int k = gemm.k;
#pragma unroll
        for (int i = 0; i < XS; i++) {
            const int index = threadIdx.x + i * T::THREADS, row = at.row + index / 4, e = (4 * step + index % 4) * EACH;
            const float* from = gemm.x + (size_t)row * k + e;
#pragma unroll
            for (int part = 0; part < EACH; part += 4) {
                float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (row < gemm.m && k % 4 == 0) {
                    if (e + part < k) v = *(const float4*)(from + part);
                } else if (row < gemm.m) {
                    if (e + part < k) v.x = from[part];
                    if (e + part + 1 < k) v.y = from[part + 1];
                    if (e + part + 2 < k) v.z = from[part + 2];
                    if (e + part + 3 < k) v.w = from[part + 3];
                }
                x[i][part] = v.x, x[i][part + 1] = v.y, x[i][part + 2] = v.z, x[i][part + 3] = v.w;
            }
        }
#pragma unroll
        for (int i = 0; i < WS; i++) {
            const int index = threadIdx.x + i * T::THREADS, column = at.column + index / 4, e = (4 * step + index % 4) * EACH;
            w[i] = make_uint4(0, 0, 0, 0);
            if (column >= at.part->rows || e >= k) continue;
            const uint8_t* from = at.part->weights + ((size_t)column * k + e) * (16 / EACH);
            if (k % EACH == 0) {
                w[i] = *(const uint4*)from;
            } else {
                uint32_t word[4] = {};
#pragma unroll
                for (int j = 0; j < EACH; j++) {
                    if (e + j >= k) continue;
                    if constexpr (KIND == F32) {
                        word[j] = ((const uint32_t*)from)[j];
                    } else {
                        word[j / 2] |= (uint32_t)((const uint16_t*)from)[j] << 16 * (j % 2);
                    }
                }
                w[i] = make_uint4(word[0], word[1], word[2], word[3]);
            }
        }
    }

    // Two activations as tensor cores take them. F16 ends at 65504: what is larger is held there.
    __device__ __forceinline__ static uint32_t pair(float a, float b) {
        if constexpr (KIND == F16) {
            const __half2 v = __floats2half2_rn(fminf(fmaxf(a, -65504.0f), 65504.0f), fminf(fmaxf(b, -65504.0f), 65504.0f));
            return *(const uint32_t*)&v;
        } else {
            const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
            return *(const uint32_t*)&v;
        }
    }

    // Rounds what was loaded, to shared memory.
    __device__ __forceinline__ void put(int step) {
#pragma unroll
        for (int i = 0; i < XS; i++) {
            const int index = threadIdx.x + i * T::THREADS;
            uint32_t word[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if constexpr (KIND == F32) {
                    word[j] = to_tf32(x[i][j]);
                } else {
                    word[j] = pair(x[i][2 * j], x[i][2 * j + 1]);
                }
            }
            *(uint4*)(activations + (step & 1) * T::ROWS * STEP + swizzled(index / 4, index % 4)) =
                make_uint4(word[0], word[1], word[2], word[3]);
        }
#pragma unroll
        for (int i = 0; i < WS; i++) {
            const int index = threadIdx.x + i * T::THREADS;
            uint4 v = w[i];
            if constexpr (KIND == F32) {
                v = make_uint4(to_tf32(__uint_as_float(v.x)), to_tf32(__uint_as_float(v.y)), to_tf32(__uint_as_float(v.z)),
                               to_tf32(__uint_as_float(v.w)));
            }
            *(uint4*)(weights + (step & 1) * T::COLUMNS * STEP + swizzled(index / 4, index % 4)) = v;
        }
    }

    // sum += the products of a step.
    __device__ __forceinline__ void multiply(int step, float (&sum)[T::MF][4][4]) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t a[T::MF][4], b[2][4]; // b: first and last 16 bytes of 8 columns beside those of the next 8
#pragma unroll
            for (int i = 0; i < T::MF; i++) load_fragment(a[i], activations + (step & 1) * T::ROWS * STEP, at.fragment(i), half);
#pragma unroll
            for (int j = 0; j < 2; j++)
                load_fragment(b[j], weights + (step & 1) * T::COLUMNS * STEP, 32 * at.warp_n + 16 * j, half);
#pragma unroll
            for (int i = 0; i < T::MF; i++) {
                if (at.skips(i)) continue;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const uint32_t b0 = b[j / 2][j % 2], b1 = b[j / 2][2 + j % 2];
                    if constexpr (KIND == F16) mma_f16(sum[i][j], a[i], b0, b1);
                    if constexpr (KIND == BF16) mma_bf16(sum[i][j], a[i], b0, b1);
                    if constexpr (KIND == F32) mma_tf32(sum[i][j], a[i], b0, b1);
                }
            }
        }
    }
};

template <int KIND, class T> __device__ __forceinline__ void gemm_floats(const Gemm& gemm) {
    extern __shared__ __align__(16) uint8_t shared[];
    const Place<T> at(gemm);
    Floats<KIND, T> tile(gemm, at, shared);
    const int steps = (gemm.k + 4 * tile.EACH - 1) / (4 * tile.EACH);
    float sum[T::MF][4][4] = {};
    tile.fetch(0);
    tile.put(0);
    for (int step = 0; step < steps; step++) {
        __syncthreads(); // the step's tiles are there, and those of the one before are free
        if (step + 1 < steps) tile.fetch(step + 1);
        tile.multiply(step, sum);
        if (step + 1 < steps) tile.put(step + 1);
    }
    finish(gemm, at, sum, shared);
}

#define GEMM(NAME, KIND, WAY)                                                                                  \
    extern "C" __global__ void __launch_bounds__(Large::THREADS) gemm_##NAME##_large(const __grid_constant__ Gemm g) { \
        WAY<KIND, Large>(g);                                                                                   \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(Small::THREADS) gemm_##NAME##_small(const __grid_constant__ Gemm g) { \
        WAY<KIND, Small>(g);                                                                                   \
    }
GEMM(f32, F32, gemm_floats)
GEMM(f16, F16, gemm_floats)
GEMM(bf16, BF16, gemm_floats)
GEMM(q4_0, Q4_0, gemm_quantized)
GEMM(q4_1, Q4_1, gemm_quantized)
GEMM(q5_0, Q5_0, gemm_quantized)
GEMM(q5_1, Q5_1, gemm_quantized)
GEMM(q8_0, Q8_0, gemm_quantized)
GEMM(q8_1, Q8_1, gemm_quantized)
GEMM(q2_k, Q2K, gemm_quantized)
GEMM(q3_k, Q3K, gemm_quantized)
GEMM(q4_k, Q4K, gemm_quantized)
GEMM(q5_k, Q5K, gemm_quantized)
GEMM(q6_k, Q6K, gemm_quantized)
GEMM(q8_k, Q8K, gemm_quantized)
