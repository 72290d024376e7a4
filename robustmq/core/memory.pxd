# The compiled form of memory.py: the same names as inline C.
from cpython cimport array
from cpython.bytearray cimport PyByteArray_Resize
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcmp, memcpy

ctypedef unsigned long long u64
ctypedef const unsigned char* cbytes
ctypedef unsigned char* mbytes

cdef extern from "crc32c.h" nogil:
    unsigned int robustmq_crc32c(cbytes data, size_t size)
    unsigned int robustmq_crc32c_more(unsigned int crc, cbytes data, size_t size)
    unsigned short robustmq_get16(cbytes data)
    unsigned int robustmq_get32(cbytes data)
    u64 robustmq_get64(cbytes data)
    void robustmq_put16(mbytes data, unsigned short value)
    void robustmq_put32(mbytes data, unsigned int value)
    void robustmq_put64(mbytes data, u64 value)
    unsigned short robustmq_swap16(unsigned short value)
    unsigned int robustmq_swap32(unsigned int value)
    u64 robustmq_swap64(u64 value)

cdef extern from "blake2b.h" nogil:
    Py_ssize_t ROBUSTMQ_BLAKE2B_STATE
    void robustmq_blake2b_begin(mbytes state, cbytes key, size_t size)
    u64 robustmq_blake2b_end(cbytes state, cbytes data, size_t size)

cdef inline int* ints(array.array table) noexcept:
    return table.data.as_ints

cdef inline unsigned short* shorts(array.array table) noexcept:
    return table.data.as_ushorts

cdef inline long long* longs(array.array table) noexcept:
    return table.data.as_longlongs

cdef inline u64* unsigned_longs(array.array table) noexcept:
    return <u64*>table.data.as_ulonglongs

cdef inline int push(array.array items, unsigned int value) except -1:
    cdef Py_ssize_t size = len(items)
    array.resize_smart(items, size + 1)
    items.data.as_ushorts[size] = <unsigned short>value
    return 0

cdef inline int resize(bytearray data, Py_ssize_t size) except -1:
    return PyByteArray_Resize(data, size)

cdef inline void copy(mbytes target, Py_ssize_t at, cbytes source, Py_ssize_t begin, Py_ssize_t count) noexcept:
    memcpy(target + at, source + begin, count)

cdef inline void unmask(mbytes target, Py_ssize_t at, mbytes source, Py_ssize_t begin, Py_ssize_t count, unsigned int mask) noexcept:
    cdef u64 wide = <u64>mask << 32 | mask
    cdef Py_ssize_t done = 0
    while count - done >= 8:
        robustmq_put64(target + at + done, robustmq_get64(source + begin + done) ^ wide)
        done += 8
    while done < count:
        target[at + done] = source[begin + done] ^ <unsigned char>(wide >> 8 * (done & 7))
        done += 1

cdef inline bint same(cbytes left, Py_ssize_t left_begin, cbytes right, Py_ssize_t right_begin, Py_ssize_t count) noexcept:
    return memcmp(left + left_begin, right + right_begin, count) == 0

cdef inline bytes cut(cbytes data, Py_ssize_t begin, Py_ssize_t end):
    return (<const char*>data)[begin:end]

cdef inline int get16(cbytes data, Py_ssize_t at) noexcept:
    return robustmq_get16(data + at)

cdef inline long long get32(cbytes data, Py_ssize_t at) noexcept:
    return robustmq_get32(data + at)

cdef inline u64 get64(cbytes data, Py_ssize_t at) noexcept:
    return robustmq_get64(data + at)

cdef inline int get16be(cbytes data, Py_ssize_t at) noexcept:
    return <short>robustmq_swap16(robustmq_get16(data + at))

cdef inline long long get32be(cbytes data, Py_ssize_t at) noexcept:
    return <int>robustmq_swap32(robustmq_get32(data + at))

cdef inline long long get64be(cbytes data, Py_ssize_t at) noexcept:
    return <long long>robustmq_swap64(robustmq_get64(data + at))

cdef inline void put16(mbytes target, Py_ssize_t at, long long value) noexcept:
    robustmq_put16(target + at, <unsigned short>value)

cdef inline void put32(mbytes target, Py_ssize_t at, long long value) noexcept:
    robustmq_put32(target + at, <unsigned int>value)

cdef inline void put64(mbytes target, Py_ssize_t at, u64 value) noexcept:
    robustmq_put64(target + at, value)

cdef inline void put16be(mbytes target, Py_ssize_t at, long long value) noexcept:
    robustmq_put16(target + at, robustmq_swap16(<unsigned short>value))

cdef inline void put32be(mbytes target, Py_ssize_t at, long long value) noexcept:
    robustmq_put32(target + at, robustmq_swap32(<unsigned int>value))

cdef inline void put64be(mbytes target, Py_ssize_t at, long long value) noexcept:
    robustmq_put64(target + at, robustmq_swap64(<u64>value))

cdef inline unsigned int checksum(cbytes data, Py_ssize_t begin, Py_ssize_t end) noexcept:
    return robustmq_crc32c(data + begin, end - begin)

cdef inline unsigned int checksum_more(unsigned int crc, cbytes data, Py_ssize_t begin, Py_ssize_t end) noexcept:
    return robustmq_crc32c_more(crc, data + begin, end - begin)

cdef inline bytes keyed(bytes key):
    cdef bytes state = PyBytes_FromStringAndSize(NULL, ROBUSTMQ_BLAKE2B_STATE)
    robustmq_blake2b_begin(<mbytes>state, key, len(key))
    return state

cdef inline u64 keyed_hash(bytes state, bytes data) noexcept:
    return robustmq_blake2b_end(state, data, len(data))

cdef inline object flat(object buffer):
    return buffer if isinstance(buffer, (bytes, bytearray)) else bytes(buffer)
