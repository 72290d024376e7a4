import cython
cimport robustmq.core.blocks as blocks
cimport robustmq.core.hashing as hashing
cimport robustmq.core.memory as memory
from robustmq.core.memory cimport cbytes, mbytes, u64

cdef u64 _NONE

cdef class TopicIndex:
    cdef public Py_ssize_t size
    cdef public list parts
    cdef public list used
    cdef public bint keeping
    cdef public list kept
    @cython.locals(source=mbytes, slots=mbytes, part=bytearray, begin=Py_ssize_t, size=Py_ssize_t, end=Py_ssize_t, batch=Py_ssize_t, at=Py_ssize_t, count="long long", key=u64, offset=u64, name=Py_ssize_t, number=Py_ssize_t)
    cpdef assign(self, bytearray block, u64 position, int leader_epoch, list new_topics)
    @cython.locals(source=cbytes, first=Py_ssize_t, stop=Py_ssize_t, key=u64, count="long long", known=bint, name=Py_ssize_t)
    cpdef replay(self, object block, Py_ssize_t begin, Py_ssize_t end, u64 position, list new_topics=*)
    @cython.locals(slots=mbytes, part=bytearray, at=Py_ssize_t, key=u64)
    cpdef lookup(self, bytes topic)
    cpdef set(self, bytes topic, u64 next_offset, u64 last_position=*)
    @cython.locals(slots=mbytes, part=bytearray, at=Py_ssize_t, hole=Py_ssize_t, home=Py_ssize_t, size=Py_ssize_t, key=u64, other=u64)
    cpdef bint remove(self, bytes topic) except -1
    @cython.locals(kept=dict, slots=bytearray)
    cdef _keep(self, Py_ssize_t number, u64 key, Py_ssize_t at)
    @cython.locals(data=bytearray, out=bytearray, source=mbytes, target=mbytes, to=Py_ssize_t, at=Py_ssize_t, size=Py_ssize_t, kept=dict, changed=bint, key=u64)
    cpdef bytes dump_part(self, Py_ssize_t part)
    @cython.locals(source=cbytes, at=Py_ssize_t)
    cpdef load_part(self, bytes data)
    @cython.locals(slots=mbytes, part=bytearray, at=Py_ssize_t, known=bint)
    cdef bint _put(self, u64 key, u64 next_offset, u64 last_position) except -1
    @cython.locals(slots=mbytes, part=bytearray, grown=bytearray, at=Py_ssize_t, number=Py_ssize_t, used=Py_ssize_t)
    cdef Py_ssize_t _add(self, u64 key) except -1

@cython.locals(last_offset_delta="long long")
cdef long long taken(cbytes source, Py_ssize_t batch) except -1
@cython.locals(key=u64)
cdef u64 key_of(cbytes source, Py_ssize_t begin) except? 77
cdef Py_ssize_t home_of(u64 key, Py_ssize_t size) noexcept
@cython.locals(at=Py_ssize_t, found=u64)
cdef Py_ssize_t find(mbytes slots, Py_ssize_t size, u64 key) noexcept
@cython.locals(at=Py_ssize_t)
cdef Py_ssize_t free_slot(mbytes slots, Py_ssize_t size, u64 key) noexcept
@cython.locals(at=Py_ssize_t, to=Py_ssize_t, key=u64)
cdef void move(mbytes slots, Py_ssize_t size, mbytes grown, Py_ssize_t grown_size) noexcept
