// Attention of up to eight rows on tensor cores, with nothing but results in shared memory: warps take 32 positions in turn and read
// keys and values straight into the operands of products, each of them once.
//
// A product has sixteen rows: rows 8 to 15 hold what rounding to halves took from rows 0 to 7, of queries and of weights, so that
// both have 22 bits. Elements of a head are put into the order in which a thread reads them; a product does not mind.
//
// By counting, for heads of 128: 32 positions are 16 KB in halves, 1,600 clocks of an A100's memory and 3,700 of an RTX 5090's for each
// multiprocessor. A warp takes 64 products for them (128 and 512 clocks of the tensor cores) and issues about 350 instructions: memory is
// the bound for up to eight query heads to a key head, and each reads its keys once. Not measured on a GPU.
#pragma once
#include "mma.cuh"

constexpr int FEW_ROWS = 8;
constexpr int FEW_KEYS = 32; // positions that a warp takes at once

// `SOURCE` reads eight elements of a key or a value as halves; outside of what may be read, and past the head, zeros:
//   DIM; at(p): goes to positions p .. p + 31; key(i, e), value(i, e): elements from e on of position i of these.
template <class SOURCE> struct Few {
    static constexpr int DIM = SOURCE::DIM, PARTS = (DIM + 31) / 32, WIDE = (DIM + 63) / 64;

    float sums[8 * WIDE][4]; // of row g and what it lost: tile 8 w + j has of column c element 64 w + 8 c + j
    float top, total;        // of row g: largest score, and this thread's share of the sum

    __device__ __forceinline__ Few() : top(-INFINITY), total(0.0f) {
#pragma unroll
        for (int n = 0; n < 8 * WIDE; n++)
#pragma unroll
            for (int c = 0; c < 4; c++) sums[n][c] = 0.0f;
    }

    // Queries times `by`, (rows, DIM) with rows `row(r)`, to shared memory as operands (2 * PARTS, 32 lanes); null: zeros. By all threads.
    template <class F> __device__ __forceinline__ static void load(uint4* shared, float by, int width, F row) {
        for (int i = threadIdx.x; i < 2 * PARTS * 32; i += blockDim.x) {
            const int e = 32 * (i / 64) + 8 * (i % 4) + 4 * (i / 32 % 2);
            const float* from = row(i / 4 % 8);
            float v[4] = {};
            if (from && e < width)
#pragma unroll
                for (int j = 0; j < 4; j++) v[j] = from[e + j] * by;
            float lost[4];
#pragma unroll
            for (int j = 0; j < 4; j++) lost[j] = v[j] - __half2float(__float2half_rn(v[j]));
            shared[i] = make_uint4(pack_halves(v[0], v[1]), pack_halves(lost[0], lost[1]), pack_halves(v[2], v[3]), pack_halves(lost[2], lost[3]));
        }
        __syncthreads();
    }

    // Positions p .. p + 31, of which row g sees begin..end.
    __device__ __forceinline__ void take(SOURCE& s, const uint4* queries, int p, int begin, int end) {
        const int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
        float scores[FEW_KEYS / 8][4] = {};
        constexpr int AHEAD = DIM > 128 ? 2 : PARTS; // parts whose keys are asked for together: registers bound it
        s.at(p);
#pragma unroll AHEAD
        for (int j = 0; j < PARTS; j++) {
            const uint4 first = queries[64 * j + lane], second = queries[64 * j + 32 + lane];
#pragma unroll
            for (int n = 0; n < FEW_KEYS / 8; n++) {
                const uint4 key = s.key(8 * n + g, 32 * j + 8 * t);
                mma_f16(scores[n], &first.x, key.x, key.y);
                mma_f16(scores[n], &second.x, key.z, key.w);
            }
        }
        float most = top;
#pragma unroll
        for (int n = 0; n < FEW_KEYS / 8; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int at = p + 8 * n + 2 * t + c;
                scores[n][c] = at >= begin && at < end ? scores[n][c] + scores[n][c + 2] : -INFINITY;
                most = fmaxf(most, scores[n][c]);
            }
        most = fmaxf(most, __shfl_xor_sync(ALL, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL, most, 2));
        const float base = most == -INFINITY ? 0.0f : most, shrink = exp2_fast(top - base); // -infinity: nothing was seen yet
        top = most;
        total *= shrink;
#pragma unroll
        for (int n = 0; n < 8 * WIDE; n++)
#pragma unroll
            for (int c = 0; c < 4; c++) sums[n][c] *= shrink;
        constexpr int TOGETHER = DIM > 128 ? 1 : FEW_KEYS / 16; // sixteens whose values are asked for together, as with keys
#pragma unroll TOGETHER
        for (int k = 0; k < FEW_KEYS / 16; k++) {
            uint32_t weights[4];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float(&own)[4] = scores[r], (&next)[4] = scores[2 + r]; // chosen, not indexed: that would put them into memory
                const float a = exp2_fast((k ? next[0] : own[0]) - base), b = exp2_fast((k ? next[1] : own[1]) - base);
                total += a + b;
                const __half2 near = __floats2half2_rn(a, b);
                const float2 had = __half22float2(near);
                weights[2 * r] = *(const uint32_t*)&near, weights[2 * r + 1] = pack_halves(a - had.x, b - had.y);
            }
#pragma unroll
            for (int w = 0; w < WIDE; w++) {
                uint4 v[4];
#pragma unroll
                for (int r = 0; r < 4; r++) v[r] = s.value(16 * k + 2 * t + r % 2 + 8 * (r / 2), 64 * w + 8 * g);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    const int which = j % 2 ? 0x7632 : 0x5410;
                    mma_f16(sums[8 * w + j], weights, __byte_perm((&v[0].x)[j / 2], (&v[1].x)[j / 2], which),
                        __byte_perm((&v[2].x)[j / 2], (&v[3].x)[j / 2], which));
                }
            }
        }
    }

    // What the warps have of each row, put together: `give(row, largest, sum, element, value)`, by all threads. `shared`: floats
    // (warps, 8, DIM + 2).
    template <class F> __device__ __forceinline__ void finish(float* shared, int rows, F give) {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, g = lane / 4, t = lane % 4;
        float sum = total;
        sum += __shfl_xor_sync(ALL, sum, 1);
        sum += __shfl_xor_sync(ALL, sum, 2);
        __syncthreads(); // nobody reads queries any more
        float* own = shared + (warp * FEW_ROWS + g) * (DIM + 2);
        if (t == 0) own[0] = top, own[1] = sum;
#pragma unroll
        for (int w = 0; w < WIDE; w++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int e = 64 * w + 8 * (2 * t + c);
                if (e < DIM)
#pragma unroll
                    for (int j = 0; j < 8; j++) own[2 + e + j] = sums[8 * w + j][c] + sums[8 * w + j][c + 2];
            }
        __syncthreads();
        for (int i = threadIdx.x; i < rows * DIM; i += blockDim.x) {
            const float* part = shared + i / DIM * (DIM + 2);
            float most = -INFINITY, all = 0.0f, v = 0.0f;
            for (int w = 0; w < warps; w++) most = fmaxf(most, part[w * FEW_ROWS * (DIM + 2)]);
            const float base = most == -INFINITY ? 0.0f : most;
            for (int w = 0; w < warps; w++) {
                const float* of = part + w * FEW_ROWS * (DIM + 2);
                const float by = exp2_fast(of[0] - base);
                all += of[1] * by, v += of[2 + i % DIM] * by;
            }
            give(i / DIM, most, all, i % DIM, v);
        }
    }
};
