import cython
cimport robustmq.core.batches as batches
cimport robustmq.core.blocks as blocks
cimport robustmq.core.memory as memory
cimport robustmq.core.properties as properties
from cpython cimport array
from robustmq.core.audience cimport DeliveryRoute, Sink, Variant
from robustmq.core.hash_table cimport HashTable
from robustmq.core.memory cimport cbytes, mbytes, u64

cdef array.array _info, _records, _place
cdef bytes _NAME_QOS, _NAME_RETAIN, _NAME_FORMAT, _NAME_EXPIRY, _NAME_CONTENT_TYPE
cdef bytes _NAME_RESPONSE_TOPIC, _NAME_CORRELATION_DATA, _NAME_USER
cdef list _kept
cdef Cursor _cursor
cdef Frames _frames

cdef class Cursor:
    cdef public object block
    cdef public Py_ssize_t begin
    cdef public Py_ssize_t index
    cdef public Py_ssize_t at

cdef class Frames:
    cdef public bytearray data
    cdef public Py_ssize_t size
    cdef public Py_ssize_t count
    cdef public Py_ssize_t largest
    cdef public long long dropped
    @cython.locals(begin=Py_ssize_t)
    cdef Py_ssize_t room(self, Py_ssize_t size) except -1
    cdef int reset(self) except -1

@cython.locals(source=cbytes, size=Py_ssize_t, begin=Py_ssize_t, end=Py_ssize_t, delivered=Py_ssize_t, topic=bytes, route=DeliveryRoute, acked=int, name=Py_ssize_t, sink=Sink, before=Py_ssize_t, lost="long long")
cpdef Py_ssize_t deliver(object block, HashTable routes, object resolve, list dirty, list above, list kept, long long now_ms_wall) except -1
@cython.locals(source=cbytes, variant=Variant, sink=Sink, origin=u64, delivered=Py_ssize_t, shown=bytes)
cdef Py_ssize_t _to_variants(object data, Py_ssize_t begin, Py_ssize_t end, list variants, bytes topic, list dirty, long long now_ms_wall) except -1
@cython.locals(source=cbytes, delivered=Py_ssize_t, end=Py_ssize_t, batch=Py_ssize_t, attributes=int, topic=bytes, shown=bytes, rows="int*", info="long long*", number=Py_ssize_t, at=Py_ssize_t, count=Py_ssize_t, place=Py_ssize_t, row=Py_ssize_t, age="long long", retain=bint, variant=Variant)
cpdef Py_ssize_t deal(object block, Py_ssize_t begin, list hands, list dirty, long long now_ms_wall) except -1
@cython.locals(data=bytearray, have=Py_ssize_t)
cdef Py_ssize_t _into_sink(Sink sink, list dirty) except -1
@cython.locals(source=cbytes, at=Py_ssize_t, body=Py_ssize_t, length=Py_ssize_t, shift=int, taken=Py_ssize_t)
cdef Py_ssize_t _into_small_sink(Sink sink) except -1
@cython.locals(source=cbytes, rows="int*", info="long long*", batch=Py_ssize_t, attributes=int, at=Py_ssize_t, count=Py_ssize_t, number=Py_ssize_t, row=Py_ssize_t, age="long long", retain=bint)
cdef void _encode_entry(object data, Py_ssize_t begin, Py_ssize_t end, Variant variant, bytes topic, long long now_ms_wall) except *
@cython.locals(stamp="long long")
cdef long long _made_at(cbytes source, Py_ssize_t batch, int attributes, long long delta) noexcept
@cython.locals(stamp="long long")
cdef long long _age(cbytes source, Py_ssize_t batch, int attributes, long long delta, long long now_ms_wall) noexcept
@cython.locals(info="long long*", place="int*", at=Py_ssize_t, name=Py_ssize_t, length="long long", size="long long", null=bint, _=int)
cdef int _inspect(object data, Py_ssize_t begin, int number, Py_ssize_t end, long long age) except -1
@cython.locals(source=cbytes, info="long long*")
cdef int _known(object data, Py_ssize_t name, Py_ssize_t length, Py_ssize_t at, Py_ssize_t end) except -1
@cython.locals(info="long long*")
cdef int _span(object data, int column, Py_ssize_t at, Py_ssize_t end, bint sound) except -1
@cython.locals(source=cbytes, info="long long*", value="long long")
cdef void _set_expiry(object data, Py_ssize_t at, Py_ssize_t end) except *
@cython.locals(source=cbytes)
cdef int _is_topic(object data, Py_ssize_t at, Py_ssize_t end) except -1
cdef Py_ssize_t _name_skip(object data, Py_ssize_t name, Py_ssize_t length) except -1
@cython.locals(skip=Py_ssize_t)
cdef Py_ssize_t _user_size(object data, Py_ssize_t name, Py_ssize_t length, Py_ssize_t at, Py_ssize_t size) except -1
@cython.locals(info="long long*", size=Py_ssize_t)
cdef Py_ssize_t _properties_size(bytes ids, int topic_alias) except -1
cdef int length_size(Py_ssize_t value) noexcept
cdef Py_ssize_t put_length(mbytes target, Py_ssize_t at, Py_ssize_t value) noexcept
@cython.locals(source=cbytes, target=mbytes, payload=Py_ssize_t, body=Py_ssize_t, inner=Py_ssize_t, at=Py_ssize_t)
cdef int _put_packet(object data, Py_ssize_t payload_begin, Py_ssize_t payload_end, Py_ssize_t headers, int number, bytes topic, int version, int bits, int packet_id, bytes ids, int topic_alias) except -1
@cython.locals(info="long long*")
cdef Py_ssize_t _put_properties(mbytes target, Py_ssize_t at, object data, Py_ssize_t headers, int number, bytes ids, int topic_alias) except -1
cdef Py_ssize_t _put_span(mbytes target, Py_ssize_t at, int name, object data, Py_ssize_t begin, Py_ssize_t end) except -1
@cython.locals(place="int*", end=Py_ssize_t, position=Py_ssize_t, length="long long", name=Py_ssize_t, size="long long", skip=Py_ssize_t, _=int)
cdef Py_ssize_t _put_user_properties(mbytes target, Py_ssize_t at, object data, Py_ssize_t headers, int number) except -1
@cython.locals(levels=list, end=Py_ssize_t, batch=Py_ssize_t, attributes=int, unset=int, rows="int*", info="long long*", at=Py_ssize_t, count=Py_ssize_t, number=Py_ssize_t, row=Py_ssize_t, level="long long", stamp="long long")
cpdef list record_levels(object block, Py_ssize_t begin)
@cython.locals(ids=bytes, bits=int)
cpdef bytes encode(object block, Py_ssize_t entry_begin, Py_ssize_t record_index, int version, int qos, bint dup, bint retain, int packet_id, object subscription_ids, long long now_ms_wall, int topic_alias=*, bint send_topic=*, Py_ssize_t strip=*)
@cython.locals(source=cbytes, end=Py_ssize_t, batch=Py_ssize_t, attributes=int, opened=bytes, at=Py_ssize_t, number=Py_ssize_t, rows="int*", age="long long", topic=bytes)
cdef void _encode_one(object block, Py_ssize_t begin, Py_ssize_t index, int version, int bits, int packet_id, bytes ids, long long now_ms_wall, int topic_alias, bint send_topic, Py_ssize_t strip) except *
@cython.locals(place="int*", length="long long")
cdef Py_ssize_t skip_record(object data, Py_ssize_t at, Py_ssize_t end) except -1
