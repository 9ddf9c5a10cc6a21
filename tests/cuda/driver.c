// A double of the NVIDIA driver for tests: what the emulator below it lacks (graphs), and faults on demand.
//
// Installed as libcuda.so.1 and linked against the emulator, whose functions serve all names that are not here. A capture keeps
// launches with copies of their arguments; in a capture everything else that touches the device is refused, as the product promises
// to do none of it. One process, and captures of one thread, as CU_STREAM_CAPTURE_MODE_THREAD_LOCAL has them.
//
//   DREAMSEED_DRIVER_FAULT=NAME:N:CODE   the N-th call of NAME (cuLaunchKernel, cuMemAlloc_v2, ...) returns CODE; after a code that
//                                        means a lost device (700, 719, ...) every further call does
//   DREAMSEED_DRIVER_MEMORY=BYTES        the device has so much memory
//   DREAMSEED_DRIVER_VERSION=V           the driver's version, 1000 * major + 10 * minor
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void* V;
enum { OK = 0, OUT_OF_MEMORY = 2, UNSUPPORTED = 900, INVALIDATED = 901, MOST_PARAMS = 32, MOST_KERNELS = 16384 };

typedef struct {
    char name[64];
    V function;
    int params, sizes[MOST_PARAMS];
} Kernel;
typedef struct {
    V function;
    unsigned dims[7];
    V stream;
    int params;
    V args[MOST_PARAMS];
} Node;
typedef struct {
    Node* nodes;
    size_t count;
    int owners, broken;
} Graph;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Kernel kernels[MOST_KERNELS];
static int kernel_count, lost;
static uint64_t held;
static __thread Graph* capturing;

static V real(const char* name) {
    static V emulator;
    if (!emulator) emulator = dlopen("libptxemu.so", RTLD_NOW | RTLD_NOLOAD);
    V found = emulator ? dlsym(emulator, name) : NULL;
    if (!found) fprintf(stderr, "driver: the emulator has no %s\n", name), abort();
    return found;
}

// What a call of `name` is to fail with, if anything.
static int fault(const char* name) {
    static int calls;
    if (lost) return lost;
    const char* text = getenv("DREAMSEED_DRIVER_FAULT");
    if (!text) return OK;
    char wanted[64];
    int n, code;
    if (sscanf(text, "%63[^:]:%d:%d", wanted, &n, &code) != 3) fprintf(stderr, "driver: %s is no fault\n", text), abort();
    if (strcmp(wanted, name)) return OK;
    pthread_mutex_lock(&lock);
    const int now = ++calls == n;
    if (now && (code == 46 || code == 214 || code >= 700)) lost = code;
    pthread_mutex_unlock(&lock);
    return now ? code : OK;
}

static int refused(const char* name) {
    if (!capturing) return fault(name);
    fprintf(stderr, "driver: %s in a capture\n", name);
    capturing->broken = 1;
    return UNSUPPORTED;
}

// The kernels of a PTX text, and the bytes of their parameters.
static void learn(const char* ptx) {
    for (const char* at = strstr(ptx, ".entry "); at; at = strstr(at + 1, ".entry ")) {
        if (kernel_count == MOST_KERNELS) fprintf(stderr, "driver: more than %d kernels\n", MOST_KERNELS), abort();
        Kernel* k = &kernels[kernel_count++];
        const char* end = strchr(at, ')');
        sscanf(at, ".entry %63[A-Za-z0-9_$]", k->name);
        k->params = 0;
        for (const char* p = strstr(at, ".param "); p && p < end; p = strstr(p + 1, ".param ")) {
            int bytes = 0, many = 1;
            const char *line = p + strcspn(p, ",)\n"), *bracket = memchr(p, '[', (size_t)(line - p));
            for (const char* dot = p + 6; dot && dot < line; dot = strchr(dot + 1, '.'))
                if (strchr("bsuf", dot[1]) && dot[2] >= '0' && dot[2] <= '9') bytes = atoi(dot + 2) / 8;
            if (bracket) many = atoi(bracket + 1);
            k->sizes[k->params++] = bytes * many;
        }
    }
}

int cuDriverGetVersion(int* version) {
    const char* text = getenv("DREAMSEED_DRIVER_VERSION");
    if (text) return *version = atoi(text), OK;
    return ((int (*)(int*))real(__func__))(version);
}

int cuModuleLoadData(V* module, const char* image) {
    const int code = fault(__func__);
    if (code) return code;
    pthread_mutex_lock(&lock);
    learn(image);
    pthread_mutex_unlock(&lock);
    return ((int (*)(V*, const char*))real(__func__))(module, image);
}

int cuModuleGetFunction(V* function, V module, const char* name) {
    const int code = ((int (*)(V*, V, const char*))real(__func__))(function, module, name);
    pthread_mutex_lock(&lock);
    // every device loads its own: the newest entry without a function is this one's
    for (int i = kernel_count - 1; code == OK && i >= 0; i--)
        if (!strcmp(kernels[i].name, name) && (!kernels[i].function || kernels[i].function == *function)) {
            kernels[i].function = *function;
            break;
        }
    pthread_mutex_unlock(&lock);
    return code;
}

typedef int (*Launch)(V, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, V, V*, V*);

int cuLaunchKernel(V f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, V stream,
                   V* params, V* extra) {
    const int code = fault(__func__);
    if (code) return code;
    if (!capturing) return ((Launch)real(__func__))(f, gx, gy, gz, bx, by, bz, shared, stream, params, extra);
    Kernel* k = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < kernel_count && !k; i++)
        if (kernels[i].function == f) k = &kernels[i];
    pthread_mutex_unlock(&lock);
    if (!k || extra) return 1;
    capturing->nodes = realloc(capturing->nodes, (capturing->count + 1) * sizeof(Node));
    Node* node = &capturing->nodes[capturing->count++];
    *node = (Node){f, {gx, gy, gz, bx, by, bz, shared}, stream, k->params, {0}};
    for (int i = 0; i < k->params; i++) node->args[i] = memcpy(malloc((size_t)k->sizes[i]), params[i], (size_t)k->sizes[i]);
    return OK;
}

int cuStreamBeginCapture_v2(V stream, int mode) {
    (void)stream, (void)mode;
    const int code = refused(__func__);
    if (code) return code;
    capturing = calloc(1, sizeof(Graph));
    capturing->owners = 1;
    return OK;
}

int cuStreamEndCapture(V stream, V* graph) {
    (void)stream;
    if (!capturing) return INVALIDATED;
    const int broken = capturing->broken;
    *graph = broken ? NULL : capturing;
    capturing = NULL;
    return broken ? INVALIDATED : OK;
}

int cuGraphGetNodes(V graph, V* nodes, size_t* count) {
    if (nodes) return 801;
    return *count = ((Graph*)graph)->count, OK;
}

int cuGraphInstantiateWithFlags(V* exec, V graph, unsigned long long flags) {
    (void)flags;
    const int code = refused(__func__);
    if (code) return code;
    return ((Graph*)graph)->owners++, *exec = graph, OK;
}

static int release(Graph* g) {
    if (!g || --g->owners) return OK;
    for (size_t n = 0; n < g->count; n++)
        for (int i = 0; i < g->nodes[n].params; i++) free(g->nodes[n].args[i]);
    free(g->nodes), free(g);
    return OK;
}

int cuGraphDestroy(V graph) { return release(graph); }
int cuGraphExecDestroy(V exec) { return release(exec); }

int cuGraphLaunch(V exec, V stream) {
    int code = refused(__func__);
    Graph* g = exec;
    for (size_t n = 0; code == OK && n < g->count; n++) {
        Node* k = &g->nodes[n];
        const unsigned* d = k->dims;
        code = ((Launch)real("cuLaunchKernel"))(k->function, d[0], d[1], d[2], d[3], d[4], d[5], d[6], stream, k->args, NULL);
    }
    return code;
}

// What the device has left, where a limit is set. 0: the emulator's own.
static uint64_t limit(void) {
    const char* text = getenv("DREAMSEED_DRIVER_MEMORY");
    return text ? strtoull(text, NULL, 10) : 0;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    const int code = fault(__func__);
    if (code || !limit()) return code ? code : ((int (*)(size_t*, size_t*))real(__func__))(free, total);
    return *total = limit(), *free = limit() > held ? limit() - held : 0, OK;
}

// Sizes of what is allocated, in front of nothing: the emulator has no call that tells them.
static struct {
    uint64_t at, size;
} blocks[1 << 16];

int cuMemAlloc_v2(uint64_t* at, size_t size) {
    const int code = refused(__func__);
    if (code) return code;
    pthread_mutex_lock(&lock);
    const int full = limit() && held + size > limit();
    if (!full) held += size;
    pthread_mutex_unlock(&lock);
    if (full) return OUT_OF_MEMORY;
    const int done = ((int (*)(uint64_t*, size_t))real(__func__))(at, size);
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (!blocks[i].at) {
            blocks[i].at = *at, blocks[i].size = size;
            break;
        }
    pthread_mutex_unlock(&lock);
    return done;
}

int cuMemFree_v2(uint64_t at) {
    if (capturing) return refused(__func__);
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i].at == at) {
            held -= blocks[i].size, blocks[i].at = 0;
            break;
        }
    pthread_mutex_unlock(&lock);
    return ((int (*)(uint64_t))real(__func__))(at);
}

#define ASYNC(name, declared, passed)                     \
    int name declared {                                   \
        const int code = refused(#name);                  \
        return code ? code : ((int(*) declared)real(#name)) passed; \
    }
ASYNC(cuMemcpyHtoDAsync_v2, (uint64_t to, V from, size_t n, V stream), (to, from, n, stream))
ASYNC(cuMemcpyDtoHAsync_v2, (V to, uint64_t from, size_t n, V stream), (to, from, n, stream))
ASYNC(cuMemcpyDtoDAsync_v2, (uint64_t to, uint64_t from, size_t n, V stream), (to, from, n, stream))
ASYNC(cuMemsetD8Async, (uint64_t to, unsigned char value, size_t n, V stream), (to, value, n, stream))
ASYNC(cuStreamSynchronize, (V stream), (stream))
