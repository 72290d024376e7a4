from robustmq.core.memory cimport u64

cdef class Sink:
    cdef public int version
    cdef public Py_ssize_t limit
    cdef public Py_ssize_t max_packet_size
    cdef public bint kept
    cdef public bytearray data
    cdef public bint dirty
    cdef public long long dropped
    cdef public long long messages
    cdef public object owner
    cpdef append(self, object data)
    cpdef bytearray take(self)

cdef class Variant:
    cdef public int version
    cdef public u64 no_local_origin
    cdef public bint retain_as_published
    cdef public Py_ssize_t strip
    cdef public bytes subscription_ids
    cdef public list sinks

cdef class DeliveryRoute:
    cdef public bytes topic
    cdef public list always
    cdef public list when_qos0
    cdef public bint above_qos0
    cdef public object wanted
    cdef public object meter
