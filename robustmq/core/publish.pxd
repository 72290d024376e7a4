import cython
cimport robustmq.core.batches as batches
cimport robustmq.core.blocks as blocks
cimport robustmq.core.frames as frames
cimport robustmq.core.hashing as hashing
cimport robustmq.core.memory as memory
cimport robustmq.core.properties as properties
from cpython cimport array
from robustmq.core.memory cimport cbytes, mbytes, u64
from robustmq.core.blocks cimport BlockBuilder as _Builder
from robustmq.core.hash_table cimport HashTable

cdef array.array _place, _work
cdef bytes _QOS_HEADER, _RETAIN_HEADER, _FORMAT_HEADER, _EXPIRY_NAME, _CONTENT_TYPE_NAME
cdef bytes _RESPONSE_TOPIC_NAME, _CORRELATION_DATA_NAME, _RESERVED_PREFIX, _USER_PREFIX

# Holds names and numbers, and what never refers back to it: the collector need not walk the routes.
@cython.no_gc
cdef class TopicRoute:
    cdef public bytes topic
    cdef public u64 key
    cdef public long shard
    cdef public long builder
    cdef public long long partition
    cdef public int flags
    cdef public bytes log_name
    cdef public object refusal
    cdef public bytes asked
    cdef public long long delay_ms
    cdef public object meter
    cdef public bint plain
    cdef public long head
    cdef public long tail
    cdef public long count
    cdef public Py_ssize_t run_bytes
    cdef public int run_flags

cdef class Tally:
    cdef public long long messages
    cdef public long long denied

cdef class RouteTable:
    cdef public HashTable table
    @cython.locals(route=TopicRoute, name=bytes)
    cdef TopicRoute find(self, cbytes source, Py_ssize_t begin, Py_ssize_t end)

cdef class Publisher:
    cdef public int version
    cdef public u64 origin
    cdef public RouteTable routes
    cdef public object resolve
    cdef public list builders
    cdef public int topic_alias_maximum
    cdef public bint retain_available
    cdef public int maximum_qos
    cdef public Py_ssize_t topic_length_max
    cdef public Py_ssize_t topic_levels_max
    cdef public Py_ssize_t properties_length_max
    cdef public Py_ssize_t user_properties_max
    cdef public dict aliases
    cdef public array.array packet_ids
    cdef public list ack_builders
    cdef public Tally tally
    cdef public bint retain_alone
    cdef public object refusal
    cdef public Py_ssize_t topic_begin
    cdef public Py_ssize_t topic_end
    cdef public int alias
    cdef public int packet_id
    cdef public Py_ssize_t properties_begin
    cdef public Py_ssize_t properties_end
    cdef public Py_ssize_t payload_begin
    @cython.locals(touched=list, route=TopicRoute)
    cpdef Py_ssize_t absorb(self, object buffer, array.array table, Py_ssize_t first, Py_ssize_t last, long long timestamp_ms) except -1
    @cython.locals(rows="int*", begin=Py_ssize_t, count=Py_ssize_t, after=Py_ssize_t, number=Py_ssize_t, plain=int)
    cpdef Py_ssize_t absorb_stream(self, object buffer, Py_ssize_t end, array.array table, long long max_packet_size, long long timestamp_ms) except -1
    @cython.locals(source=cbytes, rows="int*", route=TopicRoute, before_begin=Py_ssize_t, before_size=Py_ssize_t, row=Py_ssize_t, number=Py_ssize_t, header=int, qos=int, end=Py_ssize_t, size=Py_ssize_t, alone=int)
    cdef Py_ssize_t _gather(self, object buffer, array.array table, Py_ssize_t first, Py_ssize_t last, list touched) except -1
    @cython.locals(route=TopicRoute, header=int, end=Py_ssize_t, qos=int, flags=int)
    cpdef tuple absorb_one(self, object buffer, array.array table, Py_ssize_t row, long long timestamp_ms, int generation=*)
    @cython.locals(header=int, topic=bytes)
    cpdef tuple peek(self, object buffer, array.array table, Py_ssize_t row)
    @cython.locals(source=cbytes, qos=int, at=Py_ssize_t)
    cdef int _read(self, object buffer, int header, Py_ssize_t begin, Py_ssize_t end) except -1
    @cython.locals(source=cbytes, length=Py_ssize_t, shift=int, byte=int, place="long long*")
    cdef Py_ssize_t _read_properties(self, object buffer, Py_ssize_t at, Py_ssize_t end) except -1
    @cython.locals(source=cbytes, topic=bytes, route=TopicRoute)
    cdef TopicRoute _route(self, object buffer)
    @cython.locals(route=TopicRoute)
    cdef TopicRoute _learn(self, bytes topic)
    @cython.locals(source=cbytes, size=Py_ssize_t, levels=Py_ssize_t, at=Py_ssize_t, byte=int)
    cdef int _check_topic(self, bytes topic) except -1
    @cython.locals(work="int*", place=Py_ssize_t, payload=Py_ssize_t, qos=int, retain=int, headers=int, size=Py_ssize_t, topic=Py_ssize_t, first=bint)
    cdef int _chain(self, object buffer, int header, Py_ssize_t end, Py_ssize_t number, TopicRoute route) except -1
    @cython.locals(source=cbytes, work="int*", builder=_Builder, data=bytearray, begin=Py_ssize_t, size=Py_ssize_t, target=mbytes, end=Py_ssize_t, batch=Py_ssize_t, at=Py_ssize_t, number=Py_ssize_t, index=Py_ssize_t, place=Py_ssize_t, payload=Py_ssize_t)
    cdef int _write(self, object buffer, TopicRoute route, int flags, int packet_id, long long timestamp_ms) except -1
    cdef int _account(self, TopicRoute route) except -1
    @cython.locals(work="int*", qos0=Py_ssize_t, qos1=Py_ssize_t, qos2=Py_ssize_t, number=Py_ssize_t)
    cdef int _measure(self, TopicRoute route) except -1

@cython.locals(place="long long*", count=int)
cdef int header_count() noexcept
@cython.locals(digits=int)
cdef int digits_of(long long value) noexcept
@cython.locals(source=cbytes, place="long long*", size=Py_ssize_t, at=Py_ssize_t, name=int, part=int, length=Py_ssize_t)
cdef Py_ssize_t header_bytes(object buffer, Py_ssize_t begin, Py_ssize_t end) except -1
cdef bint is_reserved(cbytes source, Py_ssize_t at, Py_ssize_t length)
cdef Py_ssize_t after_property(cbytes source, Py_ssize_t at, int name) noexcept
cdef Py_ssize_t write_bytes(mbytes target, Py_ssize_t at, bytes data)
@cython.locals(source=cbytes)
cdef Py_ssize_t write_value(mbytes target, Py_ssize_t at, bytes name, object buffer, Py_ssize_t begin, Py_ssize_t end) except -1
@cython.locals(place="long long*", digits=int, rest="long long", index=int)
cdef Py_ssize_t write_headers(mbytes target, Py_ssize_t at, object buffer, int qos, int retain, Py_ssize_t begin, Py_ssize_t end) except -1
@cython.locals(source=cbytes, name=int, part=int, length=Py_ssize_t)
cdef Py_ssize_t write_user_properties(mbytes target, Py_ssize_t at, object buffer, Py_ssize_t begin, Py_ssize_t end) except -1
