cdef bytes prefix_of(bytes ip, Py_ssize_t bits)
