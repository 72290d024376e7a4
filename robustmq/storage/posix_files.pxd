# The compiled form of posix_files.py: the same names as inline C.
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "group_commit.h" nogil:
    unsigned long robustmq_open_queue()
    void robustmq_close_queue(unsigned long queue)
    int robustmq_commit_group(unsigned long queue, const int* files, const size_t* counts, size_t file_count, iovec* parts, const int* synced, size_t sync_count, size_t* whole, size_t* part)

cdef inline unsigned long open_queue() noexcept:
    return robustmq_open_queue()

cdef inline int close_queue(unsigned long queue) noexcept:
    robustmq_close_queue(queue)
    return 0

cdef inline tuple commit(unsigned long queue, list files, list buffers, list synced):
    cdef size_t file_count = len(files), sync_count = len(synced), part_count = 0, taken = 0, at = 0
    cdef size_t whole = 0, part = 0
    cdef int outcome = 0
    for rows in buffers:
        part_count += len(rows)
    cdef Py_buffer* views = <Py_buffer*>PyMem_Malloc((part_count + 1) * sizeof(Py_buffer))
    cdef iovec* parts = <iovec*>PyMem_Malloc((part_count + 1) * sizeof(iovec))
    cdef size_t* counts = <size_t*>PyMem_Malloc((file_count + 1) * sizeof(size_t))
    cdef int* numbers = <int*>PyMem_Malloc((file_count + sync_count + 1) * sizeof(int))
    try:
        if not (views and parts and counts and numbers):
            raise MemoryError
        for at in range(file_count):
            numbers[at] = files[at]
            rows = buffers[at]
            counts[at] = len(rows)
            for row in rows:
                if taken == part_count:
                    raise AssertionError("what is written does not grow meanwhile")
                PyObject_GetBuffer(row, &views[taken], PyBUF_SIMPLE)
                parts[taken].iov_base = views[taken].buf
                parts[taken].iov_len = <size_t>views[taken].len
                taken += 1
        for at in range(sync_count):
            numbers[file_count + at] = synced[at]
        with nogil:
            outcome = robustmq_commit_group(queue, numbers, counts, file_count, parts, numbers + file_count, sync_count, &whole, &part)
    finally:
        for at in range(taken):
            PyBuffer_Release(&views[at])
        PyMem_Free(views)
        PyMem_Free(parts)
        PyMem_Free(counts)
        PyMem_Free(numbers)
    return whole, part, outcome
