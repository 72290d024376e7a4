import cython
cimport robustmq.core.memory as memory
from cpython cimport array
from robustmq.core.memory cimport cbytes

@cython.locals(source=cbytes, rows="int*", capacity=Py_ssize_t, count=Py_ssize_t, at=Py_ssize_t, body=Py_ssize_t, length="long long", row=Py_ssize_t)
cpdef tuple scan(object buffer, Py_ssize_t begin, Py_ssize_t end, array.array table, long long max_packet_size=*)
@cython.locals(source=cbytes, length="long long")
cpdef long long needed(object buffer, Py_ssize_t begin, Py_ssize_t end) except -1
@cython.locals(value="long long", shift=int, byte=int)
cdef long long remaining_length(cbytes source, Py_ssize_t at, Py_ssize_t end) noexcept
