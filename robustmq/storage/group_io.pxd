import cython
cimport robustmq.storage.posix_files as posix_files

cpdef unsigned long open_queue()
cpdef int close_queue(unsigned long queue)
cpdef tuple commit(unsigned long queue, list files, list buffers, list synced)
