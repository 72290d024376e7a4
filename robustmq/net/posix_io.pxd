# The compiled form of posix_io.py: the same names as inline C.
from libc.errno cimport EAGAIN, EINTR, errno
from libc.string cimport memset

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int file, const msghdr* message, int flags)
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

cdef inline Py_ssize_t transmit_framed(int file, const unsigned char* head, Py_ssize_t head_size, const unsigned char* data, Py_ssize_t size) noexcept:
    cdef iovec parts[2]
    cdef msghdr message
    memset(&message, 0, sizeof(msghdr))
    parts[0].iov_base = <void*>head
    parts[0].iov_len = head_size
    parts[1].iov_base = <void*>data
    parts[1].iov_len = size
    message.msg_iov = parts
    message.msg_iovlen = 2
    cdef ssize_t done = sendmsg(file, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
    if done >= 0:
        return done
    return -1 if errno == EAGAIN or errno == EINTR else -2
