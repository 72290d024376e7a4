# The compiled form of posix_io.py: the same names as inline C.
from libc.errno cimport EAGAIN, EINTR, errno

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    ssize_t recv(int file, void* buffer, size_t size, int flags)
    ssize_t send(int file, const void* buffer, size_t size, int flags)

cdef inline Py_ssize_t receive(int file, unsigned char* buffer, Py_ssize_t at, Py_ssize_t size) noexcept:
    cdef ssize_t done = recv(file, buffer + at, size, MSG_DONTWAIT)
    if done >= 0:
        return done
    return -1 if errno == EAGAIN or errno == EINTR else -2

cdef inline Py_ssize_t transmit(int file, const unsigned char* data, Py_ssize_t at, Py_ssize_t size) noexcept:
    cdef ssize_t done = send(file, data + at, size, MSG_DONTWAIT | MSG_NOSIGNAL)
    if done >= 0:
        return done
    return -1 if errno == EAGAIN or errno == EINTR else -2
