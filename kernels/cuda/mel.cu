// Log-mel features of sound: Hann window of 400 samples every 160, power spectrum, bands, logarithm.
#include "common.cuh"

constexpr int WINDOW = 400, HOP = 160, BINS = WINDOW / 2 + 1, SIDE = 20; // a transform of 400 is two of 20, one after the other

struct Mel {
    const float* pcm;    // (samples)
    int first, samples;  // the piece that is there; silence beyond it
    int frame;           // the first one that is wanted
    const float* window; // (400)
    const float2* turns; // (400) cosine and sine of -2 pi i / 400
    const int3* bands;   // (n_mels) first bin, bins, where its weights begin
    const float* weights;
    int n_mels;
    float* out;          // (frames, n_mels), logarithms to base 10, from `frame` on
    float* loudest;      // (frames) the largest of each
};

// A frame to a block. Grid (frames), 128 threads.
//
// With n = 20 a + b and k = c + 20 d, X[k] = sum over b of w^(b k) (sum over a of w20^(a c) x[20 a + b]), w = e^(-2 pi i / 400).
extern "C" __global__ void __launch_bounds__(128) log_mel(const __grid_constant__ Mel m) {
    __shared__ float x[WINDOW];
    __shared__ float2 turns[WINDOW];
    __shared__ float2 inner[SIDE * SIDE]; // (b, c)
    __shared__ float power[BINS];
    const int t = m.frame + blockIdx.x;
    for (int i = threadIdx.x; i < WINDOW; i += blockDim.x) {
        const int at = abs(t * HOP - WINDOW / 2 + i) - m.first; // reflected before the start
        float v = at >= 0 && at < m.samples ? m.pcm[at] : 0.0f;
        v = isfinite(v) ? fminf(fmaxf(v, -1e6f), 1e6f) : 0.0f;
        x[i] = v * m.window[i];
        turns[i] = m.turns[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < SIDE * SIDE; i += blockDim.x) {
        const int b = i / SIDE, c = i % SIDE;
        float2 sum = make_float2(0.0f, 0.0f);
        for (int a = 0; a < SIDE; a++) {
            const float2 w = turns[a * c % SIDE * SIDE];
            const float v = x[SIDE * a + b];
            sum.x += v * w.x, sum.y += v * w.y;
        }
        inner[i] = sum;
    }
    __syncthreads();
    for (int k = threadIdx.x; k < BINS; k += blockDim.x) {
        float2 sum = make_float2(0.0f, 0.0f);
        for (int b = 0; b < SIDE; b++) {
            const float2 w = turns[b * k % WINDOW], v = inner[b * SIDE + k % SIDE];
            sum.x += v.x * w.x - v.y * w.y, sum.y += v.x * w.y + v.y * w.x;
        }
        power[k] = sum.x * sum.x + sum.y * sum.y;
    }
    __syncthreads();
    float largest = -10.0f;
    for (int i = threadIdx.x; i < m.n_mels; i += blockDim.x) {
        const int3 band = m.bands[i];
        float sum = 0.0f;
        for (int j = 0; j < band.y; j++) sum += power[band.x + j] * m.weights[band.z + j];
        const float v = log10f(fmaxf(sum, 1e-10f));
        m.out[(size_t)blockIdx.x * m.n_mels + i] = v;
        largest = fmaxf(largest, v);
    }
    __shared__ float each[4];
    largest = warp_max(largest);
    if ((threadIdx.x & 31) == 0) each[threadIdx.x >> 5] = largest;
    __syncthreads();
    if (threadIdx.x == 0) m.loudest[blockIdx.x] = fmaxf(fmaxf(each[0], each[1]), fmaxf(each[2], each[3]));
}

// The largest of n values, into the first. One block of 1024 threads.
extern "C" __global__ void __launch_bounds__(1024) mel_loudest(float* x, int n) {
    __shared__ float each[32];
    float largest = -INFINITY;
    for (int i = threadIdx.x; i < n; i += blockDim.x) largest = fmaxf(largest, x[i]);
    largest = warp_max(largest);
    if ((threadIdx.x & 31) == 0) each[threadIdx.x >> 5] = largest;
    __syncthreads(); // all of x is read
    if (threadIdx.x < 32) {
        largest = warp_max(each[threadIdx.x]);
        if (threadIdx.x == 0) x[0] = largest;
    }
}

// (max(x, loudest - 8) + 4) / 4, n elements.
extern "C" __global__ void __launch_bounds__(256) mel_range(float* x, int n, const float* loudest) {
    const float floor = *loudest - 8.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i] = (fmaxf(x[i], floor) + 4.0f) / 4.0f;
}
