import cython
cimport robustmq.core.memory as memory
from cpython cimport array
from robustmq.core.memory cimport cbytes

@cython.locals(place="long long*", at=Py_ssize_t, stop=Py_ssize_t, name=int, column=int, width=int, value="long long", _=int)
cpdef int check(cbytes source, Py_ssize_t begin, Py_ssize_t end, array.array table) except -1
cpdef int column_of(int name) except -1
@cython.locals(stop=Py_ssize_t)
cpdef Py_ssize_t string_end(cbytes source, Py_ssize_t at, Py_ssize_t end) except -1
@cython.locals(stop=Py_ssize_t, _=int)
cpdef Py_ssize_t pair_end(cbytes source, Py_ssize_t at, Py_ssize_t end) except -1
cpdef int check_text(cbytes source, Py_ssize_t at, Py_ssize_t end) except -1
cpdef int check_response_topic(cbytes source, Py_ssize_t at, Py_ssize_t end) except -1
@cython.locals(byte=int, low=int, high=int, more=int)
cpdef bint is_text(cbytes source, Py_ssize_t at, Py_ssize_t end) noexcept
