import cython
cimport robustmq.core.memory as memory
from cpython cimport array
from robustmq.core.memory cimport u64

cdef class HashTable:
    cdef public Py_ssize_t capacity
    cdef public Py_ssize_t size
    cdef public Py_ssize_t mask
    cdef public array.array keys
    cdef public list values
    cdef int _make(self, Py_ssize_t slots) except -1
    @cython.locals(keys="u64*", at=Py_ssize_t)
    cpdef object find(self, u64 key)
    @cython.locals(keys="u64*", at=Py_ssize_t)
    cpdef put(self, u64 key, object value)
    @cython.locals(old_keys=array.array, old_values=list, at=Py_ssize_t)
    cdef int _grow(self) except -1
    cpdef clear(self)
