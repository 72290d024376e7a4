import cython
cimport robustmq.core.memory as memory
from cpython cimport array
from robustmq.core.memory cimport cbytes, mbytes

@cython.locals(ids="unsigned short*", out=bytearray, target=mbytes, first=int, at=Py_ssize_t, number=Py_ssize_t)
cpdef bytes encode(int kind, array.array packet_ids, Py_ssize_t begin, Py_ssize_t end)
@cython.locals(source=cbytes, rows="int*", row=Py_ssize_t, header=int, begin=Py_ssize_t, packet_id=int)
cpdef Py_ssize_t parse(object buffer, array.array table, Py_ssize_t first, Py_ssize_t last, int kind, array.array out) except -1
