/* Preloaded into a broker: its calls on files fail, wait or are cut as the rules say that a test
 * keeps in shared memory (files.py), while it runs; and what was synced is noted in a journal.
 *
 * Environment: FAULTY_FILES_RULES, a file with RULES rules; FAULTY_FILES_JOURNAL, a file that gets
 * a line a fact: "synced <bytes> <path>", "cut <bytes> <path>", "moved <path>\t<path>". Only paths
 * with "/leveldb/", "/log/", "/segments/", "/index-" or "/meta/" in them count. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { READ = 1, WRITE = 2, SYNC = 4, OPEN = 8 };
#define RULES 8

struct rule {
    _Atomic int64_t left;     /* calls that it still applies to */
    int32_t calls;            /* which: READ | WRITE | SYNC | OPEN (for writing) */
    int32_t error;            /* errno; 0: the call is made */
    int64_t wait_us;          /* before the call */
    int64_t bytes_a_second;   /* of writes; 0: as fast as it goes */
    _Atomic int64_t hits;     /* calls that it has applied to */
    char path[216];           /* part of the path */
};

static struct rule *rules;
static int journal = -1;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, name)

static int real_open(const char *path, int flags, int mode) {
    REAL(int, "open", const char *, int, ...);
    return real(path, flags, mode);
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTY_FILES_RULES");
    if (path) {
        int file = real_open(path, O_RDWR | O_CLOEXEC, 0);
        void *found = mmap(NULL, RULES * sizeof *rules, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (file >= 0 && found != MAP_FAILED) rules = found;
    }
    path = getenv("FAULTY_FILES_JOURNAL");
    if (path) journal = real_open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

static int is_stored(const char *path) {
    return strstr(path, "/leveldb/") || strstr(path, "/log/") || strstr(path, "/segments/") ||
           strstr(path, "/index-") || strstr(path, "/meta/");
}

static int path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    if (size <= 0) return 0;
    path[size] = 0;
    return is_stored(path);
}

static void note(const char *format, ...) {
    char line[2 * PATH_MAX + 64];
    va_list list;
    va_start(list, format);
    int size = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    REAL(ssize_t, "write", int, const void *, size_t);
    if (journal >= 0 && real(journal, line, size) != size) abort();
}

static void rest(int64_t us) {
    struct timespec time = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&time, NULL);
}

/* What a rule has in store for a call: an errno, or 0 after the wait. */
static int fault_at(int call, const char *path, size_t size) {
    if (!rules) return 0;
    for (struct rule *rule = rules; rule < rules + RULES; rule++) {
        if (atomic_load(&rule->left) <= 0 || !(rule->calls & call) || !strstr(path, rule->path))
            continue;
        if (atomic_fetch_sub(&rule->left, 1) <= 0) continue;
        atomic_fetch_add(&rule->hits, 1);
        if (rule->wait_us) rest(rule->wait_us);
        if (rule->bytes_a_second) rest((int64_t)(size * 1e6 / rule->bytes_a_second));
        if (rule->error) return rule->error;
    }
    return 0;
}

static int fault(int call, int file, size_t size) {
    char path[PATH_MAX];
    if (!rules || !path_of(file, path)) return 0;
    return fault_at(call, path, size);
}

#define FAIL(call, file, size) \
    do { \
        int failed = fault(call, file, size); \
        if (failed) { errno = failed; return -1; } \
    } while (0)

static size_t total(const struct iovec *buffers, int count) {
    size_t size = 0;
    for (int at = 0; at < count; at++) size += buffers[at].iov_len;
    return size;
}

ssize_t write(int file, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    FAIL(WRITE, file, size);
    return real(file, data, size);
}

ssize_t writev(int file, const struct iovec *buffers, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    FAIL(WRITE, file, total(buffers, count));
    return real(file, buffers, count);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    FAIL(WRITE, file, size);
    return real(file, data, size, at);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    return pwrite64(file, data, size, at);
}

ssize_t pwritev64(int file, const struct iovec *buffers, int count, off64_t at) {
    REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t);
    FAIL(WRITE, file, total(buffers, count));
    return real(file, buffers, count, at);
}

ssize_t pwritev(int file, const struct iovec *buffers, int count, off_t at) {
    return pwritev64(file, buffers, count, at);
}

ssize_t read(int file, void *data, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    FAIL(READ, file, size);
    return real(file, data, size);
}

ssize_t pread64(int file, void *data, size_t size, off64_t at) {
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    FAIL(READ, file, size);
    return real(file, data, size, at);
}

ssize_t pread(int file, void *data, size_t size, off_t at) {
    return pread64(file, data, size, at);
}

static int synced(int file, int (*real)(int)) {
    char path[PATH_MAX];
    struct stat64 state = {0};
    int counts = path_of(file, path);
    if (counts) {
        int failed = fault_at(SYNC, path, 0);
        if (failed) { errno = failed; return -1; }
        fstat64(file, &state);
    }
    int result = real(file);
    if (counts && !result && S_ISREG(state.st_mode))
        note("synced %lld %s\n", (long long)state.st_size, path);
    return result;
}

int fdatasync(int file) {
    REAL(int, "fdatasync", int);
    return synced(file, real);
}

int fsync(int file) {
    REAL(int, "fsync", int);
    return synced(file, real);
}

/* fdatasyncs that the kernel makes at once (io_submit, io_getevents): each is a call of its own. One
 * that is to fail is made all the same, and its outcome is another one. */
#define QUEUED 256

static struct {
    aio_context_t queue;
    uint64_t data;
    int64_t size;
    int error, used;
    char path[PATH_MAX];
} queued[QUEUED];
static pthread_mutex_t queued_lock = PTHREAD_MUTEX_INITIALIZER;

static void queue_sync(aio_context_t queue, struct iocb *call) {
    if (call->aio_lio_opcode != IOCB_CMD_FDSYNC) return;
    char path[PATH_MAX];
    struct stat64 state = {0};
    int error = 0, counts = path_of((int)call->aio_fildes, path);
    if (!counts) return;
    error = fault_at(SYNC, path, 0);
    fstat64((int)call->aio_fildes, &state);
    pthread_mutex_lock(&queued_lock);
    int at = 0;
    while (at < QUEUED && queued[at].used) at++;
    if (at == QUEUED) abort();
    queued[at].queue = queue;
    queued[at].data = call->aio_data;
    queued[at].size = state.st_size;
    queued[at].error = error;
    queued[at].used = 1;
    strcpy(queued[at].path, path);
    pthread_mutex_unlock(&queued_lock);
}

/* The kernel has not taken it: it is asked again. */
static void forget_sync(aio_context_t queue, uint64_t data) {
    pthread_mutex_lock(&queued_lock);
    for (int at = 0; at < QUEUED; at++)
        if (queued[at].used && queued[at].queue == queue && queued[at].data == data) queued[at].used = 0;
    pthread_mutex_unlock(&queued_lock);
}

static void end_sync(aio_context_t queue, struct io_event *event) {
    pthread_mutex_lock(&queued_lock);
    for (int at = 0; at < QUEUED; at++) {
        if (!queued[at].used || queued[at].queue != queue || queued[at].data != event->data) continue;
        queued[at].used = 0;
        if (queued[at].error) event->res = -queued[at].error;
        else if (!event->res) note("synced %lld %s\n", (long long)queued[at].size, queued[at].path);
    }
    pthread_mutex_unlock(&queued_lock);
}

long syscall(long number, ...) {
    REAL(long, "syscall", long, ...);
    va_list list;
    va_start(list, number);
    long given[6];
    for (int at = 0; at < 6; at++) given[at] = va_arg(list, long);
    va_end(list);
    if (number == SYS_io_submit)
        for (long at = 0; at < given[1]; at++)
            queue_sync((aio_context_t)given[0], ((struct iocb **)given[2])[at]);
    long result = real(number, given[0], given[1], given[2], given[3], given[4], given[5]);
    if (number == SYS_io_submit)
        for (long at = result < 0 ? 0 : result; at < given[1]; at++)
            forget_sync((aio_context_t)given[0], ((struct iocb **)given[2])[at]->aio_data);
    if (number == SYS_io_getevents)
        for (long at = 0; at < result; at++)
            end_sync((aio_context_t)given[0], (struct io_event *)given[3] + at);
    return result;
}

int truncate64(const char *path, off64_t size) {
    REAL(int, "truncate64", const char *, off64_t);
    if (is_stored(path)) note("cut %lld %s\n", (long long)size, path);
    return real(path, size);
}

int truncate(const char *path, off_t size) {
    return truncate64(path, size);
}

int ftruncate64(int file, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    char path[PATH_MAX];
    if (path_of(file, path)) note("cut %lld %s\n", (long long)size, path);
    return real(file, size);
}

int ftruncate(int file, off_t size) {
    return ftruncate64(file, size);
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    int result = real(from, to);
    if (!result && is_stored(to)) note("moved %s\t%s\n", from, to);
    return result;
}

static int opened(const char *path, int flags, int mode) {
    if (flags & (O_WRONLY | O_RDWR | O_CREAT) && is_stored(path)) {
        int failed = fault_at(OPEN, path, 0);
        if (failed) { errno = failed; return -1; }
    }
    return real_open(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    int mode = va_arg(list, int);
    va_end(list);
    return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    int mode = va_arg(list, int);
    va_end(list);
    return opened(path, flags, mode);
}
