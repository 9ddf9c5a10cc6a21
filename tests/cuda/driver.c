// A double of the NVIDIA driver for tests: what the emulator below it lacks (graphs, streams that run late, devices that do not see
// each other's memory), and faults on demand.
//
// Installed as libcuda.so.1 and linked against the emulator, whose functions serve all names that are not here. What is put on a
// stream runs when somebody waits for it and not before, so that what is not ordered by an event or a wait is seen to be in the wrong
// order. Each allocation is its device's alone: a kernel or copy of another device that is handed it fails. A capture keeps launches
// with copies of their arguments; in a capture everything else that touches the device is refused, as the product promises to do none
// of it. One process, and captures of one thread, as CU_STREAM_CAPTURE_MODE_THREAD_LOCAL has them.
//
// What several devices do together (NCCL's double puts it there by `doubleMeet`) runs when all have come to it. A stream that waits for
// one that does not come is not done whenever it is asked; a call that would wait for it without end ends the process instead.
//
//   DREAMSEED_DRIVER_FAULT=NAME:N:CODE   the N-th call of NAME (cuLaunchKernel, cuMemAlloc_v2, ...) returns CODE; after a code that
//                                        means a lost device (700, 719, ...) every further call for that device does.
//                                        NAME@D: calls for device D alone. NAME `kernel`: the N-th kernel that runs meets CODE there
//   DREAMSEED_DRIVER_MEMORY=BYTES,..     the devices have so much memory; of a single number, each
//   DREAMSEED_DRIVER_VERSION=V           the driver's version, 1000 * major + 10 * minor
//   DREAMSEED_DRIVER_COPIES=FILE         counts copies to devices, their bytes, copies from devices and their bytes: 8 bytes each
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef void* V;
enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_READY = 600, LOST = 700, UNSUPPORTED = 900, INVALIDATED = 901, ALREADY = 704 };
enum { MOST_PARAMS = 32, MOST_KERNELS = 1 << 14, MOST_DEVICES = 16, FIRST_CONTEXT = 0x1000 };

typedef struct {
    char name[64];
    V function;
    int params, sizes[MOST_PARAMS], device;
} Kernel;
// Those who meet: graphs that hold a meeting of theirs, meetings that are on streams, and whether nobody waits for the others any more.
typedef struct {
    int graphs, pending, aborted;
} Company;
// A call that all members make, each on a stream of its own, as often as it is launched.
typedef struct {
    Company* company;
    int members, (*act)(V), result;
    V what;
    long done, launched[MOST_DEVICES], arrived[MOST_DEVICES];
    V streams[MOST_DEVICES];
    uint64_t at[MOST_DEVICES][2];
} Meeting;
typedef struct {
    Kernel* kernel; // or
    Meeting* meeting;
    int member;
    unsigned dims[7];
    V args[MOST_PARAMS];
} Node;
typedef struct {
    Node* nodes;
    size_t count;
    int owners, broken;
} Graph;
typedef struct Stream Stream;
typedef struct {
    int device;
    Stream* stream; // where it was recorded last
    long recorded, happened;
} Event;
typedef struct Op {
    enum { LAUNCH, TO_DEVICE, TO_HOST, WITHIN, TO_PEER, SET, RECORD, WAIT, MEET } kind;
    Node node;
    V host;
    uint64_t to, from;
    size_t bytes;
    int devices[2]; // of `to` and `from`
    Event* event;
    long number;
    struct Op* next;
} Op;
struct Stream {
    int device, error, busy;
    Graph* capture;
    Op *first, **last;
    Stream* next;
};

static pthread_mutex_t lock;
static Kernel kernels[MOST_KERNELS];
static int kernel_count, lost[MOST_DEVICES], reached[MOST_DEVICES][MOST_DEVICES];
static uint64_t held[MOST_DEVICES];
static Stream* streams;
static __thread Stream* capturing[MOST_DEVICES]; // a thread's streams that are being captured
static __thread int captures;
static __thread int current; // device

__attribute__((constructor)) static void begin(void) {
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&lock, &recursive);
}

static V real(const char* name) {
    static V emulator;
    if (!emulator) emulator = dlopen("libptxemu.so", RTLD_NOW | RTLD_NOLOAD);
    V found = emulator ? dlsym(emulator, name) : NULL;
    if (!found) fprintf(stderr, "driver: the emulator has no %s\n", name), abort();
    return found;
}

// What `name` is to fail with on a device, if anything.
static int fault_on(const char* name, int on) {
    static int calls;
    const char* text = getenv("DREAMSEED_DRIVER_FAULT");
    if (!text) return OK;
    char wanted[64];
    int n, code, device = on;
    if (sscanf(text, "%63[^:]:%d:%d", wanted, &n, &code) != 3) fprintf(stderr, "driver: %s is no fault\n", text), abort();
    char* at = strchr(wanted, '@');
    if (at) *at = 0, device = atoi(at + 1);
    if (strcmp(wanted, name) || device != on) return OK;
    pthread_mutex_lock(&lock);
    const int now = ++calls == n;
    if (now && (code == 46 || code == 214 || code >= 700)) lost[on] = code;
    pthread_mutex_unlock(&lock);
    return now ? code : OK;
}

static int fault(const char* name) { return lost[current] ? lost[current] : fault_on(name, current); }

static int refused(const char* name) {
    if (!captures) return fault(name);
    fprintf(stderr, "driver: %s in a capture\n", name);
    for (int i = 0; i < captures; i++) capturing[i]->capture->broken = 1;
    return UNSUPPORTED;
}

int cuCtxSetCurrent(V context) {
    if (context) current = (int)((uint64_t)context - FIRST_CONTEXT);
    if (current < 0 || current >= MOST_DEVICES) fprintf(stderr, "driver: no context of ours\n"), abort();
    return ((int (*)(V))real(__func__))(context);
}

// What is allocated.
static struct Block {
    uint64_t at, size;
    int device;
} blocks[1 << 16];
static size_t block_count; // used at most

static struct Block* block_of(uint64_t at) {
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i].at && at >= blocks[i].at && at - blocks[i].at < blocks[i].size) return &blocks[i];
    return NULL;
}

static int is_of(uint64_t at, int device, const char* what) {
    struct Block* b = block_of(at);
    if (b && b->device == device) return 1;
    fprintf(stderr, "driver: %s on device %d is handed memory of %s\n", what, device, b ? "another device" : "nobody");
    return 0;
}

// Arguments are looked through for addresses: a device does not see what another one has.
static int is_at_home(const Node* node, int device) {
    const Kernel* k = node->kernel;
    if (k->device != device) return fprintf(stderr, "driver: %s is another device's\n", k->name), 0;
    for (int i = 0; i < k->params; i++)
        for (int w = 0; w + 8 <= k->sizes[i]; w += 8) {
            uint64_t word;
            memcpy(&word, (char*)node->args[i] + w, 8);
            if (word && block_of(word) && !is_of(word, device, k->name)) return 0;
        }
    return 1;
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
            kernels[i].function = *function, kernels[i].device = current;
            break;
        }
    pthread_mutex_unlock(&lock);
    return code;
}

typedef int (*Launch)(V, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, V, V*, V*);

static int copy(const char* name, const Op* op) {
    if (op->kind == TO_DEVICE) return ((int (*)(uint64_t, V, size_t, V))real(name))(op->to, op->host, op->bytes, NULL);
    if (op->kind == TO_HOST) return ((int (*)(V, uint64_t, size_t, V))real(name))(op->host, op->from, op->bytes, NULL);
    return ((int (*)(uint64_t, uint64_t, size_t, V))real(name))(op->to, op->from, op->bytes, NULL);
}

static int execute(Stream* s, Op* op) {
    const int to = op->devices[0], from = op->devices[1];
    const unsigned* d = op->node.dims;
    switch (op->kind) {
        case LAUNCH:
            if (!is_at_home(&op->node, s->device)) return LOST;
            if (fault_on("kernel", s->device)) return lost[s->device] ? lost[s->device] : INVALID;
            return ((Launch)real("cuLaunchKernel"))(op->node.kernel->function, d[0], d[1], d[2], d[3], d[4], d[5], d[6], NULL,
                                                    op->node.args, NULL);
        case TO_DEVICE: return is_of(op->to, to, "a copy") ? copy("cuMemcpyHtoDAsync_v2", op) : LOST;
        case TO_HOST: return is_of(op->from, from, "a copy") ? copy("cuMemcpyDtoHAsync_v2", op) : LOST;
        case WITHIN:
        case TO_PEER:
            return is_of(op->to, to, "a copy") && is_of(op->from, from, "a copy") ? copy("cuMemcpyDtoDAsync_v2", op) : LOST;
        case SET:
            if (!is_of(op->to, to, "clearing")) return LOST;
            return ((int (*)(uint64_t, unsigned char, size_t, V))real("cuMemsetD8Async"))(op->to, (unsigned char)op->number, op->bytes, NULL);
        case RECORD: return op->event->happened = op->number, OK;
        case WAIT: return OK;
        case MEET: return op->node.meeting->company->aborted ? OK : op->node.meeting->result;
    }
    return INVALID;
}

static void release_node(Node* node) {
    for (int i = 0; node->kernel && i < node->kernel->params; i++) free(node->args[i]);
}

static int run(Stream* s, const long* seen, long wanted);

// A member comes to what all do together. Whether it may go on: all came, or nobody waits any more.
static int meet(Stream* s, const Op* op) {
    Meeting* m = op->node.meeting;
    const long n = op->number;
    if (m->arrived[op->node.member] < n) m->arrived[op->node.member] = n;
    for (int i = 0; i < 2; i++)
        if (!is_of(m->at[op->node.member][i], s->device, "a sum")) return s->error = LOST, 1;
    for (int j = 0; j < m->members; j++)
        if (m->arrived[j] < n && m->launched[j] >= n && !m->company->aborted) run(m->streams[j], &m->arrived[j], n);
    if (m->company->aborted) return 1;
    for (int j = 0; j < m->members; j++)
        if (m->arrived[j] < n) return 0;
    if (m->done < n) m->done = n, m->result = m->act(m->what);
    return 1;
}

// Runs what is on a stream: all of it, or until what is counted has been seen so often. NOT_READY: it waits for others.
static int run(Stream* s, const long* seen, long wanted) {
    int waits = s->busy++;
    while (!waits && s->first && !(seen && *seen >= wanted)) {
        Op* op = s->first;
        if (!s->error) s->error = lost[s->device];
        if (op->kind == WAIT && !s->error && op->event->stream && op->event->happened < op->number)
            waits = run(op->event->stream, &op->event->happened, op->number) == NOT_READY;
        if (op->kind == MEET && !s->error) waits = !meet(s, op);
        if (waits) break;
        const int code = s->error ? s->error : execute(s, op);
        if (op->kind == RECORD && s->error) op->event->happened = op->number;
        if (code >= LOST) lost[s->device] = code;
        s->error = code;
        s->first = op->next;
        if (!s->first) s->last = &s->first;
        if (op->kind == LAUNCH) release_node(&op->node);
        if (op->kind == MEET) op->node.meeting->company->pending--;
        if (op->kind == TO_DEVICE) free(op->host);
        free(op);
    }
    s->busy--;
    return waits ? NOT_READY : s->error;
}

// What a call on a stream says: an error is told once, unless the device is lost.
static int told(Stream* s, int code) {
    if (s->error < LOST) s->error = OK;
    return code;
}

// Runs all that is on a stream, as a call that waits for it does.
static int finish(Stream* s) {
    const int code = run(s, NULL, 0);
    if (code == NOT_READY) fprintf(stderr, "driver: device %d waits without end for one that does not come\n", s->device), abort();
    return told(s, code);
}

static void run_device(int device) {
    for (Stream* s = streams; s; s = s->next)
        if (s->device == device) finish(s);
}

static int put(Stream* s, Op op) {
    if (s->device != current) return fprintf(stderr, "driver: a stream of another device\n"), INVALID;
    Op* own = memcpy(malloc(sizeof op), &op, sizeof op);
    own->next = NULL;
    pthread_mutex_lock(&lock);
    *s->last = own, s->last = &own->next;
    pthread_mutex_unlock(&lock);
    return OK;
}

static Node copied(Kernel* k, const unsigned* dims, V* params) {
    Node node = {.kernel = k};
    memcpy(node.dims, dims, sizeof node.dims);
    for (int i = 0; i < k->params; i++) node.args[i] = memcpy(malloc((size_t)k->sizes[i]), params[i], (size_t)k->sizes[i]);
    return node;
}

int cuStreamCreate(V* stream, unsigned flags) {
    (void)flags;
    const int code = refused(__func__);
    if (code) return code;
    Stream* s = calloc(1, sizeof(Stream));
    s->device = current, s->last = &s->first;
    pthread_mutex_lock(&lock);
    s->next = streams, streams = s;
    pthread_mutex_unlock(&lock);
    return *stream = s, OK;
}

int cuStreamDestroy_v2(V stream) {
    pthread_mutex_lock(&lock);
    finish(stream);
    Stream** at = &streams;
    while (*at != stream) at = &(*at)->next;
    *at = ((Stream*)stream)->next;
    pthread_mutex_unlock(&lock);
    free(stream);
    return OK;
}

int cuStreamSynchronize(V stream) {
    int code = refused(__func__);
    if (code) return code;
    pthread_mutex_lock(&lock);
    code = finish(stream);
    pthread_mutex_unlock(&lock);
    return code;
}

int cuStreamQuery(V stream) {
    int code = refused(__func__);
    if (code) return code;
    pthread_mutex_lock(&lock);
    code = told(stream, run(stream, NULL, 0));
    pthread_mutex_unlock(&lock);
    return code;
}

int cuEventCreate(V* event, unsigned flags) {
    (void)flags;
    const int code = refused(__func__);
    if (code) return code;
    Event* e = calloc(1, sizeof(Event));
    e->device = current;
    return *event = e, OK;
}

int cuEventDestroy_v2(V event) {
    // what still waits for it or records it has to run first
    pthread_mutex_lock(&lock);
    for (Stream* s = streams; s; s = s->next) finish(s);
    pthread_mutex_unlock(&lock);
    free(event);
    return OK;
}

int cuEventRecord(V event, V stream) {
    const int code = refused(__func__);
    if (code) return code;
    Event* e = event;
    if (e->device != current) return fprintf(stderr, "driver: an event of another device is recorded\n"), INVALID;
    e->stream = stream;
    return put(stream, (Op){.kind = RECORD, .event = e, .number = ++e->recorded});
}

int cuStreamWaitEvent(V stream, V event, unsigned flags) {
    (void)flags;
    const int code = refused(__func__);
    if (code) return code;
    Event* e = event;
    if (!e->recorded) fprintf(stderr, "driver: an event that was never recorded is waited for\n");
    return put(stream, (Op){.kind = WAIT, .event = e, .number = e->recorded});
}

static int release(Graph* g) {
    if (!g || --g->owners) return OK;
    for (size_t n = 0; n < g->count; n++) {
        release_node(&g->nodes[n]);
        if (g->nodes[n].meeting) g->nodes[n].meeting->company->graphs--;
    }
    free(g->nodes), free(g);
    return OK;
}

static void add(Graph* g, Node node) {
    g->nodes = realloc(g->nodes, (g->count + 1) * sizeof(Node));
    g->nodes[g->count++] = node;
}

int cuLaunchKernel(V f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, V stream,
                   V* params, V* extra) {
    const int code = fault(__func__);
    if (code) return code;
    Kernel* k = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < kernel_count && !k; i++)
        if (kernels[i].function == f) k = &kernels[i];
    pthread_mutex_unlock(&lock);
    if (!k || extra) return INVALID;
    Stream* s = stream;
    if (captures && !s->capture) return refused("a launch on another stream");
    const Node node = copied(k, (unsigned[]){gx, gy, gz, bx, by, bz, shared}, params);
    if (!s->capture) return put(stream, (Op){.kind = LAUNCH, .node = node});
    add(s->capture, node);
    return OK;
}

// For doubles of libraries: what `members` streams do together by `act(what)`. `what` is kept.
V doubleMeeting(int members, int (*act)(V), V what, V company) {
    Meeting* m = calloc(1, sizeof *m);
    m->members = members, m->act = act, m->what = what, m->company = company;
    return m;
}

// Makes a device the thread's; which one was.
int doubleBind(int device) {
    const int before = current;
    return current = device, before;
}

static int come(Meeting* m, int member, V stream) {
    m->streams[member] = stream, m->company->pending++;
    return put(stream, (Op){.kind = MEET, .node = {.meeting = m, .member = member}, .number = ++m->launched[member]});
}

// One of them, with its memory: on its stream, or in the graph that the stream is captured into.
int doubleMeet(V meeting, int member, V stream, uint64_t from, uint64_t to) {
    const int code = fault(__func__);
    if (code) return code;
    Meeting* m = meeting;
    Stream* s = stream;
    m->at[member][0] = from, m->at[member][1] = to;
    if (captures && !s->capture) return refused("a sum on another stream");
    if (!s->capture) return come(m, member, stream);
    add(s->capture, (Node){.meeting = m, .member = member});
    m->company->graphs++;
    return OK;
}

int cuStreamBeginCapture_v2(V stream, int mode) {
    (void)mode;
    const int code = fault(__func__);
    if (code) return code;
    Stream* s = stream;
    if (s->capture || captures == MOST_DEVICES) return INVALID;
    s->capture = calloc(1, sizeof(Graph));
    s->capture->owners = 1;
    capturing[captures++] = s;
    return OK;
}

int cuStreamEndCapture(V stream, V* graph) {
    Stream* s = stream;
    Graph* g = s->capture;
    if (!g) return INVALIDATED;
    const int broken = g->broken;
    int i = 0;
    while (i < captures && capturing[i] != s) i++;
    if (i == captures) return UNSUPPORTED; // another thread's
    capturing[i] = capturing[--captures], s->capture = NULL;
    *graph = broken ? NULL : g;
    if (broken) release(g);
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

int cuGraphDestroy(V graph) { return release(graph); }
int cuGraphExecDestroy(V exec) { return release(exec); }

int cuGraphLaunch(V exec, V stream) {
    int code = refused(__func__);
    Graph* g = exec;
    for (size_t n = 0; code == OK && n < g->count; n++) {
        Node* k = &g->nodes[n];
        code = k->meeting ? come(k->meeting, k->member, stream)
                          : put(stream, (Op){.kind = LAUNCH, .node = copied(k->kernel, k->dims, k->args)});
    }
    return code;
}

// What the current device has, where a limit is set. 0: the emulator's own.
static uint64_t limit(void) {
    const char *text = getenv("DREAMSEED_DRIVER_MEMORY"), *own = text;
    for (int d = 0; own && d < current; d++) own = strchr(own, ',') ? strchr(own, ',') + 1 : own;
    return own ? strtoull(own, NULL, 10) : 0;
}

int cuDeviceTotalMem_v2(size_t* total, int device) {
    const int code = ((int (*)(size_t*, int))real(__func__))(total, device), before = current;
    current = device;
    if (limit()) *total = limit();
    current = before;
    return code;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    const int code = fault(__func__);
    if (code || !limit()) return code ? code : ((int (*)(size_t*, size_t*))real(__func__))(free, total);
    return *total = limit(), *free = limit() > held[current] ? limit() - held[current] : 0, OK;
}

int cuMemAlloc_v2(uint64_t* at, size_t size) {
    const int code = refused(__func__);
    if (code) return code;
    pthread_mutex_lock(&lock);
    int done = limit() && held[current] + size > limit() ? OUT_OF_MEMORY : OK;
    if (!done) done = ((int (*)(uint64_t*, size_t))real(__func__))(at, size);
    if (!done) {
        size_t i = 0;
        while (i < block_count && blocks[i].at) i++;
        if (i == sizeof blocks / sizeof *blocks) fprintf(stderr, "driver: too many allocations\n"), abort();
        if (i == block_count) block_count++;
        blocks[i].at = *at, blocks[i].size = size, blocks[i].device = current;
        held[current] += size;
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int cuMemFree_v2(uint64_t at) {
    if (captures) return refused(__func__);
    pthread_mutex_lock(&lock);
    struct Block* b = block_of(at);
    int code = INVALID;
    if (b && b->device == current) {
        run_device(current); // as the driver does: freeing waits
        held[current] -= b->size, b->at = 0;
        code = ((int (*)(uint64_t))real(__func__))(at);
    } else fprintf(stderr, "driver: memory is freed that is not this device's\n");
    pthread_mutex_unlock(&lock);
    return code;
}

static void count(int from_device, size_t bytes) {
    static uint64_t* counts;
    const char* name = getenv("DREAMSEED_DRIVER_COPIES");
    if (!name) return;
    pthread_mutex_lock(&lock);
    if (!counts) {
        const int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (file < 0 || ftruncate(file, 4 * sizeof *counts)) fprintf(stderr, "driver: cannot count in %s\n", name), abort();
        counts = mmap(NULL, 4 * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (counts == MAP_FAILED) fprintf(stderr, "driver: cannot map %s\n", name), abort();
        close(file);
    }
    counts[2 * from_device]++, counts[2 * from_device + 1] += bytes;
    pthread_mutex_unlock(&lock);
}

int cuMemcpyHtoDAsync_v2(uint64_t to, V from, size_t n, V stream) {
    const int code = refused(__func__);
    if (code || !n) return code;
    count(0, n);
    V own = memcpy(malloc(n), from, n);
    return put(stream, (Op){.kind = TO_DEVICE, .to = to, .host = own, .bytes = n, .devices = {current, current}});
}

int cuMemcpyDtoHAsync_v2(V to, uint64_t from, size_t n, V stream) {
    const int code = refused(__func__);
    if (code || !n) return code;
    count(1, n);
    return put(stream, (Op){.kind = TO_HOST, .host = to, .from = from, .bytes = n, .devices = {current, current}});
}

int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, V stream) {
    const int code = refused(__func__);
    if (code || !n) return code;
    return put(stream, (Op){.kind = WITHIN, .to = to, .from = from, .bytes = n, .devices = {current, current}});
}

int cuMemcpyPeerAsync(uint64_t to, V to_context, uint64_t from, V from_context, size_t n, V stream) {
    const int code = refused(__func__);
    if (code || !n) return code;
    const int devices[2] = {(int)((uint64_t)to_context - FIRST_CONTEXT), (int)((uint64_t)from_context - FIRST_CONTEXT)};
    return put(stream, (Op){.kind = TO_PEER, .to = to, .from = from, .bytes = n, .devices = {devices[0], devices[1]}});
}

int cuMemsetD8Async(uint64_t to, unsigned char value, size_t n, V stream) {
    const int code = refused(__func__);
    if (code || !n) return code;
    return put(stream, (Op){.kind = SET, .to = to, .number = value, .bytes = n, .devices = {current, current}});
}

// Neighbours reach each other, others do not.
int cuDeviceCanAccessPeer(int* can, int device, int peer) { return *can = abs(device - peer) == 1, OK; }

int cuCtxEnablePeerAccess(V peer, unsigned flags) {
    (void)flags;
    const int code = refused(__func__), device = (int)((uint64_t)peer - FIRST_CONTEXT);
    if (code) return code;
    if (abs(device - current) != 1) return 217;
    const int before = reached[current][device];
    return reached[current][device] = 1, before ? ALREADY : OK;
}
