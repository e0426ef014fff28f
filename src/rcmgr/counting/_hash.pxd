"""The hash of an object, with all its 64 bits.

Cython's own declaration returns `long`, which has 32 bits on Windows.
"""

cdef extern from "Python.h":
    Py_hash_t PyObject_Hash(object key) except? -1
