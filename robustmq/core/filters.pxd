import cython

cdef class Node:
    cdef public dict children
    cdef public Node plus
    cdef public object here
    cdef public object below

cdef class FilterTrie:
    cdef public Node root
    cdef public dict exact
    cdef public Py_ssize_t wildcards
    cdef public Py_ssize_t size
    @cython.locals(node=Node, child=Node, level=bytes)
    cpdef insert(self, bytes filter, object value)
    @cython.locals(node=Node, child=Node)
    cpdef bint remove(self, bytes filter, object value) except -1
    cpdef list match(self, bytes topic)
    @cython.locals(nodes=list, following=list, node=Node, child=Node, hidden=bint, level=bytes)
    cdef _walk(self, bytes topic, list found)

cdef Node _child(Node node, bytes level)
cdef _take(object held, list found)
