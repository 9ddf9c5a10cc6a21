// The choice of the next token from a row of logits, so that ids alone leave the device. A block has one row.
//
// Candidates are cut by top-k, top-p and min-p and drawn as the CPU's sampler does it (engine/llm/sampling.rs): without a sort. A cut is
// a place in the order of the logits, found by sums over bins: first equal stretches of logits, then the bits of those within one bin.
// Probabilities are integers, in units of 2^-40 of the best one's, so that their sums do not depend on the order of the additions.
#include "common.cuh"

using u64 = unsigned long long;

struct Choice {
    u64 random;         // state of the random numbers before the draw
    float temperature;  // 0: the best
    float top_p;        // 1: all
    float ln_min_p;     // -infinity: all
    int top_k;          // 0: all
};

struct Chosen {
    int token;      // -1: no logit is a finite number
    float logprob;  // natural, of all candidates at temperature 1
};

// Random numbers as random.rs has them: what a state grows by, and the number of a grown one, from 0 up to 1.
constexpr u64 STEP = 0x9E3779B97F4A7C15;

__device__ __forceinline__ double uniform(u64 z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return ((z ^ z >> 31) >> 11) * 0x1p-53;
}

// The rows of a pass, (4, most): tokens, positions, rows of the tables of turns; and how their tokens are chosen.
struct Steps {
    int* inputs; // null: they stay
    int most;
    Choice* choices;

    // Row i becomes the row that goes on from it, where it is not empty.
    __device__ __forceinline__ void go_on(int i, int token) const {
        if (!inputs || inputs[most + i] < 0) return;
        inputs[i] = token, inputs[most + i]++, inputs[2 * most + i]++;
        if (choices[i].temperature > 0.0f) choices[i].random += STEP;
    }
};

// Candidates above a key, and so many of those on it, the first ones.
struct Cut {
    uint32_t key;
    u64 ties;
};

constexpr int BINS = 2048;
constexpr int EACH = 8; // neighbouring logits of a thread in a search by place

struct Shared {
    u64 bins[BINS];
    u64 sums[32];
    float floats[32];
    int places[32];
    u64 before;
    int at;
};

__device__ __forceinline__ bool counts(float v) { return fabsf(v) < INFINITY; }

// Finite floats in their order.
__device__ __forceinline__ uint32_t key_of(float v) {
    const uint32_t bits = __float_as_uint(v);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(uint32_t key) {
    return __uint_as_float(key >> 31 ? key ^ 0x80000000u : ~key);
}

__device__ __forceinline__ int bin_of(float max, float v) {
    const float d = (max - v) * 32.0f;
    return d < BINS - 1 ? (int)d : BINS - 1;
}

struct One {
    __device__ u64 operator()(float) const { return 1; }
};

struct Weight {
    float max, temperature;
    __device__ u64 operator()(float v) const { return (u64)(expf((v - max) / temperature) * 0x1p40f); }
};

// Of candidates on a key: one.
struct On {
    uint32_t key;
    __device__ u64 operator()(float v) const { return key_of(v) == key; }
};

// Of candidates from a key on: their weight.
struct From {
    Weight weight;
    uint32_t above;
    __device__ u64 operator()(float v) const { return key_of(v) > above ? weight(v) : 0; }
};

__device__ __forceinline__ u64 warp_scan(u64 v) {
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
        const u64 lower = __shfl_up_sync(ALL, v, o);
        if ((threadIdx.x & 31) >= o) v += lower;
    }
    return v;
}

// The mass of all candidates, known to all threads.
template <class Mass> __device__ u64 total(const float* x, int n, Cut kept, Mass mass, Shared& s) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    u64 sum = threadIdx.x == 0 && kept.ties ? kept.ties * mass(value_of(kept.key)) : 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (counts(x[i]) && key_of(x[i]) > kept.key) sum += mass(x[i]);
    sum = warp_scan(sum);
    __syncthreads(); // nobody reads what an earlier sum left here any more
    if (lane == 31) s.sums[warp] = sum;
    __syncthreads();
    u64 all = 0;
    for (int w = 0; w < warps; w++) all += s.sums[w];
    return all;
}

// The first of N bins with which their sum reaches the goal, to s.at, and the sum before it, to s.before. All threads call it.
template <int N> __device__ void find(u64 goal, Shared& s) {
    __syncthreads();
    if (threadIdx.x < 32) {
        const int lane = threadIdx.x;
        u64 own = 0;
        for (int i = 0; i < N / 32; i++) own += s.bins[lane * (N / 32) + i];
        u64 before = warp_scan(own) - own;
        if (before < goal && before + own >= goal) {
            int at = lane * (N / 32);
            while (before + s.bins[at] < goal) before += s.bins[at++];
            s.at = at;
            s.before = before;
        }
    }
    __syncthreads();
}

template <int N> __device__ void clear(Shared& s) {
    __syncthreads();
    for (int i = threadIdx.x; i < N; i += blockDim.x) s.bins[i] = 0;
    __syncthreads();
}

// The fewest of the best candidates whose mass reaches the goal, which is at least 1 and at most the mass of all.
template <class Mass>
__device__ Cut reach(const float* x, int n, float max, Cut kept, Mass mass, u64 goal, Shared& s) {
    const float tied = value_of(kept.key);
    clear<BINS>(s);
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (counts(x[i]) && key_of(x[i]) > kept.key) atomicAdd(&s.bins[bin_of(max, x[i])], mass(x[i]));
    if (threadIdx.x == 0 && kept.ties) atomicAdd(&s.bins[bin_of(max, tied)], kept.ties * mass(tied));
    find<BINS>(goal, s);
    const int bin = s.at;
    goal -= s.before;
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        const auto within = [&](float v) {
            return bin_of(max, v) == bin && (shift == 24 || key_of(v) >> ((shift + 8) & 31) == prefix);
        };
        const auto digit = [&](float v) { return 255 - (key_of(v) >> shift & 255); };
        clear<256>(s);
        for (int i = threadIdx.x; i < n; i += blockDim.x)
            if (counts(x[i]) && key_of(x[i]) > kept.key && within(x[i])) atomicAdd(&s.bins[digit(x[i])], mass(x[i]));
        if (threadIdx.x == 0 && kept.ties && within(tied)) atomicAdd(&s.bins[digit(tied)], kept.ties * mass(tied));
        find<256>(goal, s);
        prefix = prefix << 8 | (255 - s.at);
        goal -= s.before;
    }
    const u64 each = mass(value_of(prefix));
    return {prefix, (goal + each - 1) / each};
}

// The first place at which the running sum of masses reaches the goal.
template <class Mass> __device__ int place(const float* x, int n, Mass mass, u64 goal, Shared& s) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const auto of = [&](int i) { return i < n && counts(x[i]) ? mass(x[i]) : 0; };
    __syncthreads(); // nobody reads what a cut left here any more
    if (threadIdx.x == 0) s.at = 0;
    for (int base = 0; base < n; base += EACH * blockDim.x) {
        const int from = base + EACH * threadIdx.x;
        u64 own = 0;
        for (int e = 0; e < EACH; e++) own += of(from + e);
        const u64 scanned = warp_scan(own);
        __syncthreads();
        if (lane == 31) s.sums[warp] = scanned;
        __syncthreads();
        u64 before = scanned - own, all = 0;
        for (int w = 0; w < warps; w++) {
            if (w < warp) before += s.sums[w];
            all += s.sums[w];
        }
        if (before < goal && before + own >= goal) {
            int e = 0;
            while (before + of(from + e) < goal) before += of(from + e++);
            s.at = from + e;
        }
        if (all >= goal) break; // known to all threads alike
        goal -= all;
    }
    __syncthreads();
    return s.at;
}

__device__ int draw(const float* x, int n, float max, const Choice& c, Shared& s) {
    Cut kept = {0, 0}; // below all finite numbers
    if (c.top_k > 0 && (u64)c.top_k < total(x, n, kept, One(), s)) kept = reach(x, n, max, kept, One(), c.top_k, s);
    if (c.top_p < 1.0f) {
        const Weight weight = {max, 1.0f};
        const u64 goal = (u64)ceil((double)c.top_p * total(x, n, kept, weight, s));
        kept = reach(x, n, max, kept, weight, goal > 0 ? goal : 1, s);
    }
    if (counts(c.ln_min_p)) {
        const uint32_t below = key_of(max + c.ln_min_p) - 1;
        if (below >= kept.key) kept = {below, 0};
    }
    const Weight weight = {max, c.temperature};
    const u64 all = total(x, n, kept, weight, s);
    const u64 drawn = (u64)(uniform(c.random + STEP) * all) + 1, goal = drawn < all ? drawn : all;
    if (c.top_k <= 0 && c.top_p >= 1.0f) return place(x, n, From{weight, kept.key}, goal, s);
    const Cut last = reach(x, n, max, kept, weight, goal, s);
    return place(x, n, On{last.key}, last.ties, s);
}

// Tokens of rows, after which the rows go on by them. Grid (m), logits (m, n).
extern "C" __global__ void __launch_bounds__(512, 1) choose(const float* x, int n, Choice* choices, Chosen* chosen, int* inputs, int most) {
    __shared__ Shared s;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const Choice c = choices[blockIdx.x];
    const auto give = [&](Chosen got) { // by one thread, after all have read the choice
        chosen[blockIdx.x] = got;
        Steps{inputs, most, choices}.go_on(blockIdx.x, got.token);
    };
    x += (size_t)blockIdx.x * n;
    float max = -INFINITY;
    int at = n;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (counts(x[i]) && x[i] > max) max = x[i], at = i;
    const auto reduce = [&] {
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            const float v = __shfl_xor_sync(ALL, max, o);
            const int b = __shfl_xor_sync(ALL, at, o);
            if (v > max || (v == max && b < at)) max = v, at = b;
        }
    };
    reduce();
    if (lane == 0) s.floats[warp] = max, s.places[warp] = at;
    __syncthreads();
    max = lane < warps ? s.floats[lane] : -INFINITY;
    at = lane < warps ? s.places[lane] : n;
    reduce();
    if (at == n) { // known to all threads alike
        if (threadIdx.x == 0) give({-1, 0.0f});
        return;
    }
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (counts(x[i])) sum += expf(x[i] - max);
    sum = block_sum(sum, s.floats);
    const int token = c.temperature > 0.0f ? draw(x, n, max, c, s) : at;
    if (threadIdx.x == 0) give({token, x[token] - max - logf(sum)});
}
