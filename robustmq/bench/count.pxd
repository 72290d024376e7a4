import cython
cimport robustmq.core.memory as memory
from cpython cimport array
from robustmq.core.memory cimport cbytes, mbytes

cdef class Tally:
    cdef public long long topics, streams, messages, bytes, gaps, duplicates, reordered, foreign
    cdef public bint timing
    cdef public array.array histogram, delivered

cdef class Inbox:
    cdef public int version
    cdef public long long first_stream, messages, completed
    cdef public array.array streams, pubacks, pubrecs, pubcomps, released
    cdef public list others

@cython.locals(source=cbytes, at=Py_ssize_t, body=Py_ssize_t, length=Py_ssize_t, header=int, shift=int)
cpdef Py_ssize_t walk(bytearray buffer, Py_ssize_t begin, Py_ssize_t end, Inbox inbox, Tally tally, long long now_ns) except -1
cdef bint _answer(int kind, int packet_id, Inbox inbox) except -1
@cython.locals(source=cbytes, qos=int, at=Py_ssize_t, packet_id=int, length=Py_ssize_t, stream="long long", elapsed="long long", rows="long long*")
cdef void _publish(bytearray buffer, int header, Py_ssize_t begin, Py_ssize_t end, Inbox inbox, Tally tally, long long now_ns) except *
@cython.locals(row="long long", delivered="long long*", state="long long*", ahead="long long", seen="long long", moved="long long", back="long long", one="long long")
cdef void _check(long long stream, long long sequence, Inbox inbox, Tally tally) noexcept
@cython.locals(value="long long", shift=int, place=int)
cpdef int bucket(long long elapsed_ns) noexcept
@cython.locals(target=mbytes, at=Py_ssize_t, sequence="long long", rest="long long")
cpdef int fill(bytearray buffer, Py_ssize_t frame_size, Py_ssize_t packet_id_at, Py_ssize_t payload_at, Py_ssize_t slot, long long first, Py_ssize_t count, long long topics, int packet_id, long long now_ns) except -1
