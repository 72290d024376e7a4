import cython
cimport robustmq.core.memory as memory
from robustmq.core.memory cimport cbytes, mbytes

cdef int CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, MAX_CONTROL_BYTES

cdef class Deframer:
    cdef readonly int status
    cdef readonly str why
    cdef bint _masked
    cdef bytearray _head
    cdef int _head_size
    cdef int _opcode
    cdef bint _in_message
    cdef long long _left
    cdef unsigned int _mask
    cdef bytearray _control
    cdef int _control_size
    cdef int _ping
    cdef bytes _ping_data

    @cython.locals(data=mbytes, control=mbytes, at=Py_ssize_t, out=Py_ssize_t, size="long long")
    cpdef Py_ssize_t absorb(self, bytearray buffer, Py_ssize_t begin, Py_ssize_t end) except -1
    cpdef bytes take_pong(self)
    @cython.locals(source=mbytes, head=mbytes, have=int, wanted=int)
    cdef Py_ssize_t _take_head(self, bytearray buffer, Py_ssize_t at, Py_ssize_t end) noexcept
    @cython.locals(head=mbytes, opcode=int, final=int, length="long long", place=int)
    cdef void _begin_frame(self, int size) noexcept
    @cython.locals(opcode=int)
    cdef bint _allowed(self, int first, int second, long long length) noexcept
    cdef void _control_frame(self) except *
    cdef void _close(self, bytes data) except *
    cdef void _fail(self, int status, str why) noexcept

@cython.locals(data=mbytes, frame=bytearray, head=bytearray, size=Py_ssize_t, begin=Py_ssize_t)
cpdef bytes client_frame(int opcode, bytes payload, bytes mask)
@cython.locals(length=int, mask=int)
cdef int head_size(int second, bint masked) noexcept
@cython.locals(bits=int)
cdef unsigned int rotated(unsigned int mask, Py_ssize_t size) noexcept
