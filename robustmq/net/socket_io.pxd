import cython
cimport robustmq.net.posix_io as posix_io

@cython.locals(size=Py_ssize_t, target="unsigned char*")
cpdef Py_ssize_t receive(int file, bytearray buffer, Py_ssize_t at) except -9
@cython.locals(size=Py_ssize_t, source="const unsigned char*")
cpdef Py_ssize_t transmit(int file, object data) except -9
