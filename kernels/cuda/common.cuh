// What all kernels share: reductions over a warp and a block, the 8-bit form of activations, and functions of a product.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

constexpr unsigned ALL = 0xffffffffu; // every lane of a warp

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(ALL, v, o);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL, v, o));
    return v;
}

// The sum over a block of whole warps, known to all its threads. `scratch`: 32 floats in shared memory.
__device__ __forceinline__ float block_sum(float v, float* scratch) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_sum(v);
    __syncthreads(); // nobody reads what an earlier sum left here any more
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    return warp_sum(lane < warps ? scratch[lane] : 0.0f);
}

// 32 activations in 8 bits, one to a lane, as ggml's Q8_1 has them: q = round(v / d), d = max|v| / 127, and d times the sum of q.
__device__ __forceinline__ void quantize_unit(float v, int8_t* q, float2* scale) {
    const int lane = threadIdx.x & 31;
    const float d = warp_max(fabsf(v)) / 127.0f;
    const int code = d > 0.0f ? __float2int_rn(v / d) : 0;
    q[lane] = (int8_t)code;
    const float sum = warp_sum((float)code);
    if (lane == 0) *scale = make_float2(d, d * sum);
}

// In the order of `Activation` in linear.rs.
enum Activation { NONE, RELU, RELU6, GELU, GELU_TANH, SILU, SIGMOID, HARD_SWISH };

__device__ __forceinline__ float activate(int kind, float v) {
    switch (kind) {
    case RELU: return fmaxf(v, 0.0f);
    case RELU6: return fminf(fmaxf(v, 0.0f), 6.0f);
    case GELU: return 0.5f * v * (1.0f + erff(v * 0.7071067811865476f));
    case GELU_TANH: return 0.5f * v * (1.0f + tanhf(0.7978845608028654f * (v + 0.044715f * v * v * v)));
    case SILU: return v / (1.0f + __expf(-v));
    case SIGMOID: return 1.0f / (1.0f + __expf(-v));
    case HARD_SWISH: return v * fminf(fmaxf(v + 3.0f, 0.0f), 6.0f) / 6.0f;
    default: return v;
    }
}
