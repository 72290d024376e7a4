import cython
cimport robustmq.net.posix_io as posix_io

@cython.locals(size=Py_ssize_t, target="unsigned char*")
cpdef Py_ssize_t receive(int file, bytearray buffer, Py_ssize_t at) except -9
@cython.locals(source="const unsigned char*")
cpdef Py_ssize_t transmit(int file, object data, Py_ssize_t size=*) except -9
@cython.locals(first="const unsigned char*", source="const unsigned char*")
cpdef Py_ssize_t transmit_framed(int file, bytes head, object data) except -9
