import cython
cimport robustmq.core.batches as batches
cimport robustmq.core.hashing as hashing
cimport robustmq.core.memory as memory
from robustmq.core.hash_table cimport HashTable
from robustmq.core.memory cimport cbytes, mbytes, u64

cdef u64 _NONE, _UNKNOWN

cdef class BlockBuilder:
    cdef public long shard
    cdef public bint memory
    cdef public bytearray data
    cpdef take(self)

@cython.locals(found=list, index=Py_ssize_t, builder=BlockBuilder)
cpdef list filled(list builders)

cdef class Opened:
    cdef public object data
    cdef public Py_ssize_t begin
    cdef public bytes entry

cdef Opened _opened

@cython.locals(length="long long", batch="long long")
cpdef Py_ssize_t check_entry(cbytes source, Py_ssize_t begin, Py_ssize_t end) except -1
cpdef Py_ssize_t batch_begin(cbytes source, Py_ssize_t begin) noexcept
@cython.locals(front="unsigned int")
cdef unsigned int seal_of(cbytes source, Py_ssize_t begin) noexcept
@cython.locals(target=mbytes)
cpdef put_seal(bytearray block, Py_ssize_t begin)
@cython.locals(source=cbytes, previous=u64, length="long long", size="long long")
cpdef tuple stored_head(object data, u64 key)
@cython.locals(source=cbytes, have=Py_ssize_t, previous=u64, length="long long", offset=u64, at=Py_ssize_t, end=Py_ssize_t, last_offset_delta="long long", stored="unsigned int", last_offset=u64)
cpdef tuple stored_batch(object data, Py_ssize_t begin, u64 key, bytes topic, u64 position, bint check)
@cython.locals(source=cbytes, begin=Py_ssize_t, size=Py_ssize_t, end=Py_ssize_t, name=Py_ssize_t, batch=Py_ssize_t)
cpdef list entries(object block)
@cython.locals(target=mbytes)
cpdef set_base_offset(bytearray block, Py_ssize_t begin, u64 base_offset)
@cython.locals(source=cbytes, flags=int, begin=Py_ssize_t, size=Py_ssize_t, end=Py_ssize_t)
cpdef int all_flags(object block) except -1
@cython.locals(source=cbytes, flags=int, begin=Py_ssize_t, size=Py_ssize_t, end=Py_ssize_t, name=Py_ssize_t, union=object, first=object, mask=object, same=bint)
cpdef tuple split(object block, HashTable masks, object resolve)
@cython.locals(source=cbytes, begin=Py_ssize_t, size=Py_ssize_t, end=Py_ssize_t, at=Py_ssize_t, chosen=bytearray, mask=object)
cpdef bytearray select(object block, HashTable masks, object bit)
@cython.locals(at=Py_ssize_t)
cdef Py_ssize_t write_head(mbytes target, Py_ssize_t begin, Py_ssize_t end, int flags, bytes topic, u64 key, bytes log_name, long long partition, int packet_id, u64 origin) except -1
@cython.locals(size=Py_ssize_t, entry=bytearray, at=Py_ssize_t)
cpdef bytes build_entry(bytes topic, bytes log_name, long long partition, int flags, u64 origin, int packet_id, object batch)
cpdef bytes plain_entry(object data, Py_ssize_t begin)
