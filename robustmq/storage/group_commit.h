/* Write to several files and make them survive a loss of power, in system calls alone: whoever calls
 * this holds no lock of the interpreter meanwhile. */
#ifndef ROBUSTMQ_GROUP_COMMIT_H
#define ROBUSTMQ_GROUP_COMMIT_H

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define ROBUSTMQ_PARTS_A_CALL 512
#define ROBUSTMQ_SYNCS_A_CALL 64
#define ROBUSTMQ_NO_QUEUE 0
#define ROBUSTMQ_NOT_SYNCED (-1)
#define ROBUSTMQ_LOST (-2)

/* writev until all is written; `written` counts. 0, or the errno that ended it. */
static int robustmq_write_parts(int file, struct iovec *parts, size_t count, size_t *written) {
    while (count) {
        ssize_t done = writev(file, parts, count < ROBUSTMQ_PARTS_A_CALL ? (int)count : ROBUSTMQ_PARTS_A_CALL);
        if (done < 0) {
            if (errno == EINTR) continue;
            return errno;
        }
        *written += (size_t)done;
        while (count && (size_t)done >= parts->iov_len) {
            done -= (ssize_t)parts->iov_len;
            parts++, count--;
        }
        if (count && done) {
            parts->iov_base = (char *)parts->iov_base + done;
            parts->iov_len -= (size_t)done;
        }
    }
    return 0;
}

static int robustmq_sync_file(int file) {
    int result;
    do result = fdatasync(file);
    while (result < 0 && errno == EINTR);
    return result < 0 ? errno : 0;
}

#ifdef __linux__
#include <linux/aio_abi.h>
#include <stdint.h>
#include <sys/syscall.h>

/* A queue of the kernel's for fdatasyncs that run at once, or ROBUSTMQ_NO_QUEUE. */
static unsigned long robustmq_open_queue(void) {
    aio_context_t queue = 0;
    return syscall(SYS_io_setup, (long)ROBUSTMQ_SYNCS_A_CALL, &queue) < 0 ? ROBUSTMQ_NO_QUEUE : (unsigned long)queue;
}

static void robustmq_close_queue(unsigned long queue) {
    syscall(SYS_io_destroy, (long)queue);
}

/* One fdatasync a file, all at once. 0; the errno of one that failed; ROBUSTMQ_NOT_SYNCED where the
 * kernel does not do it (all that was begun has ended); ROBUSTMQ_LOST when it is not known what has
 * become of them. */
static int robustmq_sync_queued(unsigned long queue, const int *files, size_t count) {
    struct iocb calls[ROBUSTMQ_SYNCS_A_CALL], *rows[ROBUSTMQ_SYNCS_A_CALL];
    struct io_event events[ROBUSTMQ_SYNCS_A_CALL];
    int outcome = 0;
    memset(calls, 0, count * sizeof *calls);
    for (size_t at = 0; at < count; at++) {
        calls[at].aio_fildes = (uint32_t)files[at];
        calls[at].aio_lio_opcode = IOCB_CMD_FDSYNC;
        calls[at].aio_data = at;
        rows[at] = &calls[at];
    }
    size_t begun = 0, ended = 0;
    while (ended < count) {
        if (begun < count && outcome != ROBUSTMQ_NOT_SYNCED) {
            long more = syscall(SYS_io_submit, (long)queue, (long)(count - begun), rows + begun);
            if (more > 0) begun += (size_t)more;
            else if (begun == ended) return outcome > 0 ? outcome : ROBUSTMQ_NOT_SYNCED;
            else if (more == 0 || errno != EAGAIN) outcome = outcome > 0 ? outcome : ROBUSTMQ_NOT_SYNCED;
        }
        long waited = (long)(begun - ended);
        if (!waited) break;
        long done = syscall(SYS_io_getevents, (long)queue, waited, waited, events, NULL);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return ROBUSTMQ_LOST;
        for (long at = 0; at < done; at++)
            if ((long long)events[at].res < 0) outcome = (int)-(long long)events[at].res;
        ended += (size_t)done;
        if (outcome && ended == begun) break;
    }
    return outcome;
}
#else
static unsigned long robustmq_open_queue(void) { return ROBUSTMQ_NO_QUEUE; }
static void robustmq_close_queue(unsigned long queue) { (void)queue; }
static int robustmq_sync_queued(unsigned long queue, const int *files, size_t count) {
    (void)queue, (void)files, (void)count;
    return ROBUSTMQ_NOT_SYNCED;
}
#endif

static int robustmq_sync_files(unsigned long queue, const int *files, size_t count) {
    if (count == 1) return robustmq_sync_file(*files);
    int outcome = 0;
    if (count && queue == ROBUSTMQ_NO_QUEUE) return ROBUSTMQ_NOT_SYNCED;
    for (size_t at = 0; at < count && !outcome; at += ROBUSTMQ_SYNCS_A_CALL) {
        size_t left = count - at;
        outcome = robustmq_sync_queued(queue, files + at, left < ROBUSTMQ_SYNCS_A_CALL ? left : ROBUSTMQ_SYNCS_A_CALL);
    }
    return outcome;
}

/* `counts[n]` parts go to the end of `files[n]`, then `synced` are synced. `whole` files were
 * written, and of the next one `part` bytes. */
static int robustmq_commit_group(unsigned long queue, const int *files, const size_t *counts, size_t file_count,
                                 struct iovec *parts, const int *synced, size_t sync_count,
                                 size_t *whole, size_t *part) {
    for (size_t at = 0; at < file_count; at++) {
        *part = 0;
        int error = robustmq_write_parts(files[at], parts, counts[at], part);
        if (error) return error;
        parts += counts[at];
        ++*whole;
    }
    *part = 0;
    return robustmq_sync_files(queue, synced, sync_count);
}

#endif
