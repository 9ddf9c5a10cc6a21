// The other layers of convolutional networks: pooling, resizing, functions of elements, reductions, copies to other places. A thread
// makes one output unless said otherwise; numbers of elements are below 2^31. Their references are cpu/conv_reference.rs, elementwise.rs
// and movement.rs.
#include "picture.cuh"

// The largest or the mean of the pixels under the window; those outside the picture take no part.
extern "C" __global__ void __launch_bounds__(256)
    tensor_pool(const __grid_constant__ Window w, int largest, const float* x, float* out, const __grid_constant__ Tail tail) {
    const int c = thread() % w.n, p = thread() / w.n;
    if (p >= w.oh * w.ow) return;
    const int y = p / w.ow * w.sh - w.top, left = p % w.ow * w.sw - w.left;
    float v = largest ? -INFINITY : 0.0f;
    int count = 0;
    for (int ky = 0; ky < w.kh; ky++)
        for (int kx = 0; kx < w.kw; kx++) {
            const int iy = y + ky * w.dh, ix = left + kx * w.dw;
            if (iy < 0 || iy >= w.h || ix < 0 || ix >= w.w) continue;
            const float seen = x[((size_t)iy * w.w + ix) * w.c + c];
            v = largest ? fmaxf(v, seen) : v + seen;
            count++;
        }
    out[thread()] = finish(tail, largest ? v : v / count, p, c);
}

struct Resize {
    int h, w, c, oh, ow;
    int centres; // 0: corner, 1: aligned, 2: half
};

// The two source positions and the weight of the second. Written without contraction: a place is rounded as on the CPU.
__device__ __forceinline__ void sample(int centres, int o, int from, int to, int& low, int& high, float& weight) {
    const float scale = centres == 1 && to > 1 ? (float)(from - 1) / (float)(to - 1) : (float)from / (float)to;
    const float at = centres == 2 ? __fsub_rn(__fmul_rn((float)o + 0.5f, scale), 0.5f) : __fmul_rn((float)o, scale);
    const float floor = floorf(at);
    low = min((int)fmaxf(floor, 0.0f), from - 1);
    high = min((int)fmaxf(floor + 1.0f, 0.0f), from - 1);
    weight = at - floor;
}

// Bilinear.
extern "C" __global__ void __launch_bounds__(256)
    tensor_resize(const __grid_constant__ Resize r, const float* x, float* out, const __grid_constant__ Tail tail) {
    const int c = thread() % r.c, p = thread() / r.c;
    if (p >= r.oh * r.ow) return;
    int y0, y1, x0, x1;
    float fy, fx;
    sample(r.centres, p / r.ow, r.h, r.oh, y0, y1, fy);
    sample(r.centres, p % r.ow, r.w, r.ow, x0, x1, fx);
    const auto at = [&](int y, int column) { return x[((size_t)y * r.w + column) * r.c + c]; };
    float v = at(y0, x0) * ((1.0f - fy) * (1.0f - fx));
    v = fmaf(at(y0, x1), (1.0f - fy) * fx, v);
    v = fmaf(at(y1, x0), fy * (1.0f - fx), v);
    v = fmaf(at(y1, x1), fy * fx, v);
    out[thread()] = finish(tail, v, p, c);
}

// What a layer's end does, alone.
extern "C" __global__ void __launch_bounds__(256)
    tensor_activate(int n, int channels, const float* x, float* out, const __grid_constant__ Tail tail) {
    const int i = thread();
    if (i < n) out[i] = finish(tail, x[i], i / channels, i % channels);
}

// In the order of `Unary` in cpu/elementwise.rs.
enum class Unary { SIGMOID, TANH, HARD_SWISH, EXP, LOG, SQRT, RSQRT, SQUARE, ABS, NEG, FLOOR, RECIPROCAL, ELU, LEAKY_RELU, TRUNCATE };

extern "C" __global__ void __launch_bounds__(256) tensor_unary(int n, int f, float slope, const float* a, float* out) {
    const int i = thread();
    if (i >= n) return;
    float x = a[i];
    switch ((Unary)f) {
        using enum Unary;
    case SIGMOID: x = 1.0f / (1.0f + expf(-x)); break;
    case TANH: x = tanhf(x); break;
    case HARD_SWISH: x = x * fminf(fmaxf(x + 3.0f, 0.0f), 6.0f) / 6.0f; break;
    case EXP: x = expf(x); break;
    case LOG: x = logf(x); break;
    case SQRT: x = sqrtf(x); break;
    case RSQRT: x = 1.0f / sqrtf(x); break;
    case SQUARE: x = x * x; break;
    case ABS: x = fabsf(x); break;
    case NEG: x = -x; break;
    case FLOOR: x = floorf(x); break;
    case RECIPROCAL: x = 1.0f / x; break;
    case ELU: x = x > 0.0f ? x : expm1f(x); break;
    case LEAKY_RELU: x = x > 0.0f ? x : slope * x; break;
    default: x = truncf(x);
    }
    out[i] = x;
}

// In the order of `Binary` in cpu/elementwise.rs.
enum Binary { ADD, SUB, MUL, DIV, MIN, MAX, SQUARED_DIFFERENCE, FLOOR_DIV };

// out = f(a, b), b repeated: element i of a meets element i / inner % period of b.
extern "C" __global__ void __launch_bounds__(256)
    tensor_binary(int n, int f, int inner, int period, int swapped, const float* a, const float* b, float* out) {
    const int i = thread();
    if (i >= n) return;
    float x = a[i], y = b[i / inner % period];
    if (swapped) {
        const float other = x;
        x = y;
        y = other;
    }
    switch (f) {
    case ADD: x = x + y; break;
    case SUB: x = x - y; break;
    case MUL: x = x * y; break;
    case DIV: x = x / y; break;
    case MIN: x = fminf(x, y); break;
    case MAX: x = fmaxf(x, y); break;
    case SQUARED_DIFFERENCE: x = (x - y) * (x - y); break;
    default: x = floorf(x / y);
    }
    out[i] = x;
}

struct Pad {
    int from[4], to[4], before[4];
};

extern "C" __global__ void __launch_bounds__(256)
    tensor_pad(int n, const __grid_constant__ Pad p, float value, const float* x, float* out) {
    const int i = thread();
    if (i >= n) return;
    int rest = i;
    size_t at = 0, step = 1;
    bool inside = true;
#pragma unroll
    for (int d = 3; d >= 0; d--) {
        const int place = rest % p.to[d] - p.before[d];
        rest /= p.to[d];
        inside = inside && place >= 0 && place < p.from[d];
        at += (size_t)max(place, 0) * step;
        step *= p.from[d];
    }
    out[i] = inside ? x[at] : value;
}

// x, seen as (outer, len), to the columns from `from` on of out, seen as (outer, total). n: elements of x.
extern "C" __global__ void __launch_bounds__(256) tensor_concat(int n, int len, int total, int from, const float* x, float* out) {
    const int i = thread();
    if (i < n) out[(size_t)(i / len) * total + from + i % len] = x[i];
}

struct Walk {
    int shape[6];
    long long step[6], base;
};

extern "C" __global__ void __launch_bounds__(256) tensor_walk(int n, const __grid_constant__ Walk w, const float* x, float* out) {
    const int i = thread();
    if (i >= n) return;
    int rest = i;
    long long at = w.base;
#pragma unroll
    for (int d = 5; d >= 0; d--) {
        at += rest % w.shape[d] * w.step[d];
        rest /= w.shape[d];
    }
    out[i] = x[at];
}

// softmax(beta * x) over rows of `channels`. A warp has a row.
extern "C" __global__ void __launch_bounds__(256) tensor_softmax(int rows, int channels, float beta, const float* x, float* out) {
    const int lane = threadIdx.x & 31, row = thread() / 32;
    if (row >= rows) return;
    x += (size_t)row * channels;
    out += (size_t)row * channels;
    float top = -INFINITY, sum = 0.0f;
    for (int c = lane; c < channels; c += 32) top = fmaxf(top, x[c]);
    top = warp_max(top);
    for (int c = lane; c < channels; c += 32) sum += expf(beta * (x[c] - top));
    sum = warp_sum(sum);
    for (int c = lane; c < channels; c += 32) out[c] = expf(beta * (x[c] - top)) / sum;
}

// In the order of `Fold` in cpu/elementwise.rs.
enum Fold { SUM, MEAN, LARGEST, SMALLEST, ARG_MAX };

// The middle of (outer, len, inner) becomes one value. n: outer * inner. A warp has a value.
extern "C" __global__ void __launch_bounds__(256) tensor_fold(int n, int f, int len, int inner, const float* x, float* out) {
    const int lane = threadIdx.x & 31, i = thread() / 32;
    if (i >= n) return;
    x += (size_t)(i / inner) * len * inner + i % inner;
    float v = f == LARGEST || f == ARG_MAX ? -INFINITY : f == SMALLEST ? INFINITY : 0.0f;
    int best = 0;
    for (int e = lane; e < len; e += 32) {
        const float seen = x[(size_t)e * inner];
        if (f == SUM || f == MEAN) v += seen;
        if (f == LARGEST) v = fmaxf(v, seen);
        if (f == SMALLEST) v = fminf(v, seen);
        if (f == ARG_MAX && seen > v) v = seen, best = e;
    }
#pragma unroll
    for (int o = 16; o; o >>= 1) {
        const float other = __shfl_xor_sync(ALL, v, o);
        const int place = __shfl_xor_sync(ALL, best, o);
        if (f == SUM || f == MEAN) v += other;
        if (f == LARGEST) v = fmaxf(v, other);
        if (f == SMALLEST) v = fminf(v, other);
        // the first of equals; a lane that saw nothing above minus infinity stands at 0, as the whole does then
        if (f == ARG_MAX && (other > v || (other == v && place < best))) v = other, best = place;
    }
    if (lane == 0) out[i] = f == ARG_MAX ? (float)best : f == MEAN ? v / len : v;
}

struct Gather {
    int dims[6];
    int depth, inner;
};

// Rows of x, seen as (.., inner), looked up by `depth` indices each; an index outside its dimension is clamped. n: elements of out.
extern "C" __global__ void __launch_bounds__(256)
    tensor_gather(int n, const __grid_constant__ Gather g, const float* x, const float* indices, float* out) {
    const int i = thread();
    if (i >= n) return;
    const float* index = indices + (size_t)(i / g.inner) * g.depth;
    size_t at = 0;
    for (int d = 0; d < g.depth; d++) {
        const float place = fminf(fmaxf(index[d], 0.0f), (float)(g.dims[d] - 1)); // not a number is 0
        at = at * g.dims[d] + min((int)place, g.dims[d] - 1);
    }
    out[i] = x[at * g.inner + i % g.inner];
}
