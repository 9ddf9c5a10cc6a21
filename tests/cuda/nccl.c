// A double of NCCL for tests: sums and gathers over the devices of the emulator, whose memory is the host's, in the order of the members.
//
// Installed as libnccl.so.2. What it is asked for goes onto the streams of the driver's double, or into the graphs that they are
// captured into, and runs when all have come to it. It knows one process and one thread; what would hang with the real one (a member
// that does not take part, a sum outside a group) is refused with a message, and a communicator that is ended before its graphs or its
// sums are ends the process. A group whose end is refused has put the first member's call onto its stream, as may happen.
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

// As the driver's double has it.
typedef struct {
    int graphs, pending, aborted;
} Company;
typedef struct {
    Company company; // it outlives the group: what was aborted may be on streams yet
    int members, alive, devices[MOST];
} Group;
typedef struct {
    Group* group;
    int rank;
} Member;
typedef struct {
    Member* member;
    float *from, *to;
    size_t count;
    int gathers;
    V stream;
} Call;
typedef struct {
    int count;
    Call calls[MOST];
} Calls;

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
    Group* group = calloc(1, sizeof *group);
    group->members = group->alive = count;
    memcpy(group->devices, devices, (size_t)count * sizeof *devices);
    for (int i = 0; i < count; i++) {
        members[i] = malloc(sizeof **members);
        *members[i] = (Member){group, i};
    }
    return OK;
}

static void hang(const char* why) { fprintf(stderr, "nccl: %s: it would wait for it without end\n", why), abort(); }

int ncclCommAbort(Member* member) {
    if (member->group->company.graphs) hang("a graph holds a communicator that is ended");
    member->group->company.aborted = 1;
    member->group->alive--;
    free(member);
    return OK;
}
int ncclCommDestroy(Member* member) {
    if (member->group->company.pending) hang("a communicator is ended that has something to do");
    return ncclCommAbort(member);
}

int ncclCommGetAsyncError(Member* member, int* state) {
    (void)member;
    return *state = fault(__func__), OK;
}

int ncclGroupStart(void) { return depth++, OK; }

static int call(Call one) {
    if (!one.from || !one.to) return INVALID_ARGUMENT;
    if (!depth && one.member->group->members > 1) return usage("a call outside a group would wait for itself");
    if (called == MOST) return usage("too many calls in a group");
    return calls[called++] = one, OK;
}

int ncclAllReduce(const void* from, void* to, size_t count, int type, int op, Member* member, V stream) {
    const int code = fault(__func__);
    if (code) return code;
    return type != FLOAT || op != SUM ? INVALID_ARGUMENT : call((Call){member, (float*)from, to, count, 0, stream});
}

int ncclAllGather(const void* from, void* to, size_t count, int type, Member* member, V stream) {
    const int code = fault(__func__);
    if (code) return code;
    return type != FLOAT ? INVALID_ARGUMENT : call((Call){member, (float*)from, to, count, 1, stream});
}

// What all have come to.
static int act(V what) {
    const Calls* all = what;
    const Call* c = all->calls;
    const size_t count = c[0].count;
    if (c[0].gathers) {
        for (int to = 0; to < all->count; to++)
            for (int i = 0; i < all->count; i++) memmove(c[to].to + (size_t)i * count, c[i].from, count * sizeof(float));
        return OK;
    }
    for (size_t e = 0; e < count; e++) {
        float sum = c[0].from[e];
        for (int i = 1; i < all->count; i++) sum += c[i].from[e];
        for (int i = 0; i < all->count; i++) c[i].to[e] = sum;
    }
    return OK;
}

static V in_driver(const char* name) {
    V driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), found = driver ? dlsym(driver, name) : NULL;
    if (!found) fprintf(stderr, "nccl: the driver has no %s\n", name), abort();
    return found;
}

int ncclGroupEnd(void) {
    int code = fault(__func__);
    const int count = called;
    if (!depth) return usage("the end of a group that was not begun");
    if (--depth || !count) return code;
    called = 0;
    Group* group = calls[0].member->group;
    if (count != group->members) return usage("a member does not take part: the others would wait for it");
    for (int i = 0; i < count; i++)
        if (calls[i].member->group != group || calls[i].member->rank != i || calls[i].count != calls[0].count ||
            calls[i].gathers != calls[0].gathers)
            return usage("calls of other groups, in another order, of other kinds or lengths");
    Calls* all = malloc(sizeof *all);
    all->count = count, memcpy(all->calls, calls, sizeof calls);
    V meeting = ((V(*)(int, int (*)(V), V, V))in_driver("doubleMeeting"))(count, act, all, &group->company);
    int (*meet)(V, int, V, uint64_t, uint64_t) = (int (*)(V, int, V, uint64_t, uint64_t))in_driver("doubleMeet");
    int (*bind)(int) = (int (*)(int))in_driver("doubleBind");
    for (int i = 0; i < (code ? 1 : count); i++) {
        const int before = bind(group->devices[i]);
        const int refused = meet(meeting, i, calls[i].stream, (uint64_t)calls[i].from, (uint64_t)calls[i].to);
        bind(before);
        if (refused) return UNHANDLED_CUDA;
    }
    return code;
}
