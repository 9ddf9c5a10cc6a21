// A double of NCCL for tests: sums over the devices of the emulator, whose memory is the host's, in the order of the members.
//
// Installed as libnccl.so.2. It knows one process and one thread; what would hang with the real one (a member that does not take part,
// a sum outside a group) is refused with a message. It refuses to be captured.
//
//   DREAMSEED_NCCL_FAULT=NAME:N:CODE   the N-th call of NAME (ncclAllReduce, ncclCommInitAll, ...) returns CODE; of ncclCommGetAsyncError
//                                      it is the state that is told
//   DREAMSEED_NCCL_VERSION=V           the version, 10000 * major + 100 * minor + patch
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void* V;
enum { OK, UNHANDLED_CUDA, SYSTEM, INTERNAL, INVALID_ARGUMENT, INVALID_USAGE, FLOAT = 7, SUM = 0, MOST = 16 };

typedef struct {
    int members, alive;
} Group;
typedef struct {
    Group* group;
    int rank;
} Member;
typedef struct {
    Member* member;
    float *from, *to;
    size_t count;
    V stream;
} Call;

static Call calls[MOST];
static int depth, called;

static int fault(const char* name) {
    static int seen;
    char wanted[64];
    int n, code;
    const char* text = getenv("DREAMSEED_NCCL_FAULT");
    if (!text) return OK;
    if (sscanf(text, "%63[^:]:%d:%d", wanted, &n, &code) != 3) fprintf(stderr, "nccl: %s is no fault\n", text), abort();
    return !strcmp(wanted, name) && ++seen == n ? code : OK;
}

static int usage(const char* why) { return fprintf(stderr, "nccl: %s\n", why), INVALID_USAGE; }

int ncclGetVersion(int* version) {
    const char* text = getenv("DREAMSEED_NCCL_VERSION");
    return *version = text ? atoi(text) : 22703, fault(__func__);
}

const char* ncclGetErrorString(int code) {
    static const char* const names[] = {"no error",         "unhandled cuda error", "unhandled system error", "internal error",
                                        "invalid argument", "invalid usage",        "remote process exited"};
    return code >= 0 && code < 7 ? names[code] : "unknown result code";
}

int ncclCommInitAll(Member** members, int count, const int* devices) {
    const int code = fault(__func__);
    if (code) return code;
    if (count < 1 || count > MOST) return INVALID_ARGUMENT;
    for (int i = 0; i < count; i++)
        for (int j = 0; j < i; j++)
            if (devices[i] == devices[j]) return usage("a device twice");
    Group* group = malloc(sizeof *group);
    *group = (Group){count, count};
    for (int i = 0; i < count; i++) {
        members[i] = malloc(sizeof **members);
        *members[i] = (Member){group, i};
    }
    return OK;
}

static int end(Member* member) {
    if (!--member->group->alive) free(member->group);
    free(member);
    return OK;
}
int ncclCommDestroy(Member* member) { return end(member); }
int ncclCommAbort(Member* member) { return end(member); }

int ncclCommGetAsyncError(Member* member, int* state) {
    (void)member;
    return *state = fault(__func__), OK;
}

int ncclGroupStart(void) { return depth++, OK; }

int ncclAllReduce(const void* from, void* to, size_t count, int type, int op, Member* member, V stream) {
    const int code = fault(__func__);
    if (code) return code;
    if (type != FLOAT || op != SUM || !from || !to) return INVALID_ARGUMENT;
    if (!depth && member->group->members > 1) return usage("a sum outside a group would wait for itself");
    if (called == MOST) return usage("too many calls in a group");
    calls[called++] = (Call){member, (float*)from, to, count, stream};
    return OK;
}

// Waits for what is on a stream before the sum, as its kernel would.
static int wait_for(V stream) {
    V driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    int (*wait)(V) = driver ? (int (*)(V))dlsym(driver, "cuStreamSynchronize") : NULL;
    if (!wait) fprintf(stderr, "nccl: no driver\n"), abort();
    return wait(stream) ? UNHANDLED_CUDA : OK;
}

int ncclGroupEnd(void) {
    const int code = fault(__func__), count = called;
    if (!depth) return usage("the end of a group that was not begun");
    if (--depth || !count) return code;
    called = 0;
    if (code) return code;
    Group* group = calls[0].member->group;
    if (count != group->members) return usage("a member does not take part: the others would wait for it");
    for (int i = 0; i < count; i++)
        if (calls[i].member->group != group || calls[i].member->rank != i || calls[i].count != calls[0].count)
            return usage("calls of other groups, in another order or of other lengths");
    for (int i = 0; i < count; i++)
        if (wait_for(calls[i].stream)) return UNHANDLED_CUDA;
    for (size_t e = 0; e < calls[0].count; e++) {
        float sum = calls[0].from[e];
        for (int i = 1; i < count; i++) sum += calls[i].from[e];
        for (int i = 0; i < count; i++) calls[i].to[e] = sum;
    }
    return OK;
}
