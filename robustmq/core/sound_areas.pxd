# The compiled form of sound_areas.py: the same name as inline C.
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

cdef extern from "sound.h" nogil:
    size_t robustmq_sound_until(const unsigned char* data, size_t size, long long expected, long long next_offset, Py_ssize_t most, Py_ssize_t* left)
    unsigned int robustmq_crc32c(const unsigned char* data, size_t size)

# So much is checked with the interpreter held: letting go of it may cost as much.
cdef enum:
    HELD_BYTES = 128 * 1024

cdef inline tuple sound_until(object data, long long expected, long long next_offset, Py_ssize_t most):
    cdef Py_buffer view
    cdef size_t sound
    cdef Py_ssize_t left = 0
    # Which way checksums are made is chosen while the interpreter is held.
    robustmq_crc32c(b"", 0)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len <= HELD_BYTES:
            sound = robustmq_sound_until(<const unsigned char*>view.buf, <size_t>view.len, expected, next_offset, most, &left)
        else:
            with nogil:
                sound = robustmq_sound_until(<const unsigned char*>view.buf, <size_t>view.len, expected, next_offset, most, &left)
    finally:
        PyBuffer_Release(&view)
    return <Py_ssize_t>sound, left
