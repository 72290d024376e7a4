import cython
cimport robustmq.core.memory as memory
from robustmq.core.memory cimport cbytes, u64

cdef u64 MASK, _LENGTH, _STEP, _TAIL, _FINAL_1, _FINAL_2

cdef class Secret:
    cdef bytes value
    cdef bytes state
    cdef u64 empty_key
    cdef tuple last
    cpdef set(self, bytes secret)

cdef Secret _secret

cpdef u64 mix(bytes data, u64 seed)
@cython.locals(length=Py_ssize_t, state=u64, word=u64, byte=u64, shift=int)
cpdef u64 mix_area(cbytes source, Py_ssize_t at, Py_ssize_t end, u64 seed) noexcept
@cython.locals(key=u64, last=tuple)
cpdef u64 topic_key(bytes topic) except? 77
cpdef u64 topic_hash(bytes topic, u64 partition)
cpdef u64 key_hash(bytes kind, bytes name)
cpdef unsigned int crc32c(object buffer, Py_ssize_t begin, Py_ssize_t end) except? 77
@cython.locals(source=cbytes, length=Py_ssize_t, at=Py_ssize_t, state="unsigned int", word="unsigned int", rest=int)
cpdef unsigned int murmur2(bytes key)
