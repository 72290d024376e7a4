import cython
cimport robustmq.core.memory as memory
from cpython cimport array
from robustmq.core.memory cimport cbytes, mbytes

cdef array.array _place
cdef unsigned long long _MASK
cdef long long STAMP_MAX

@cython.locals(source=cbytes, size="long long")
cpdef Py_ssize_t batch_size(object buffer, Py_ssize_t begin, Py_ssize_t end) except -1
@cython.locals(target=mbytes)
cpdef set_base(bytearray buffer, Py_ssize_t begin, long long base_offset, int leader_epoch)
cpdef int write_header(mbytes target, Py_ssize_t begin, Py_ssize_t end, int attributes, long long count, long long first_timestamp, long long max_timestamp, long long producer_id, int producer_epoch, int base_sequence) except -1
cpdef int varint_size(long long value) noexcept
@cython.locals(rest="long long")
cpdef Py_ssize_t put_varint(mbytes target, Py_ssize_t at, long long value) noexcept
@cython.locals(position="int*", value="unsigned long long", byte="unsigned long long", shift=int)
cpdef long long signed_varint(cbytes source, Py_ssize_t at, Py_ssize_t end, array.array place) noexcept
@cython.locals(position="int*", length="long long", part="long long")
cpdef Py_ssize_t headers_end(cbytes source, Py_ssize_t at, Py_ssize_t end, long long number) noexcept
@cython.locals(source=cbytes, rows="int*", position="int*", capacity=Py_ssize_t, count=Py_ssize_t, at=Py_ssize_t, row=Py_ssize_t, length="long long", stop="long long", delta="long long", number="long long", part=int)
cpdef Py_ssize_t scan_records(object buffer, Py_ssize_t begin, Py_ssize_t end, array.array table) except -1
@cython.locals(fact="long long*", position="int*", length="long long", number="long long", part=int)
cpdef bint inspect_fields(cbytes source, Py_ssize_t at, Py_ssize_t end, array.array facts) except? 0
@cython.locals(source=cbytes, fact="long long*", position="int*", at=Py_ssize_t, walked=Py_ssize_t, length="long long", stop="long long", stamp="long long", number="long long")
cpdef Py_ssize_t inspect_records(object buffer, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t limit, array.array facts) except -1
cpdef stamp(bytearray batch, long long timestamp_ms)
cpdef long long record_count(object buffer, Py_ssize_t begin)
@cython.locals(at=Py_ssize_t, end=Py_ssize_t, total="long long", count="long long", size="long long", index=Py_ssize_t)
cpdef long long count_records(const unsigned char[::1] source) except -1
