import cython
cimport robustmq.core.memory as memory
from cpython cimport array
from robustmq.core.memory cimport cbytes, u64

cdef class OffsetMap:
    cdef readonly Py_ssize_t mask
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t size
    cdef readonly array.array low
    cdef readonly array.array high
    cdef readonly array.array offsets
    @cython.locals(source=cbytes, low=u64, high=u64, lows="u64*", highs="u64*", offsets="u64*", at=Py_ssize_t)
    cpdef bint put(self, bytes digest, u64 offset)
    @cython.locals(source=cbytes, low=u64, high=u64, at=Py_ssize_t)
    cpdef long long get(self, bytes digest)
    @cython.locals(lows="u64*", highs="u64*", at=Py_ssize_t)
    cdef Py_ssize_t _slot(self, u64 low, u64 high)
