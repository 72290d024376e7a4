import cython
cimport robustmq.core.memory as memory
from robustmq.core.memory cimport cbytes, mbytes, u64

@cython.locals(out=bytearray, target=mbytes, size=Py_ssize_t, crc="unsigned int")
cpdef bytearray head(int kind, object payload, u64 source, u64 sequence, u64 timestamp_ms)
