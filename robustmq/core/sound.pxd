cimport robustmq.core.sound_areas as sound_areas

cpdef tuple sound_until(object data, long long expected, long long next_offset, Py_ssize_t most)
