"""Which context (PEP 567) runs now, and whether a weak reference is to it.

CPython has no public call for the first: PyContext_CopyCurrent copies. A CPython whose thread state
has no such field fails to compile this.
"""

from cpython.object cimport PyObject


cdef extern from *:
    """
    /* Borrowed; NULL: this thread has none yet, the first PyContextVar_Set makes it. */
    static inline PyObject *rcmgr_current_context(void)
    {
        return PyThreadState_Get()->context;
    }

    /* Whether `weak` is a weak reference to `object`, which is alive. */
    static inline int rcmgr_refers_to(PyObject *weak, PyObject *object)
    {
        if (!PyWeakref_Check(weak))
            return 0;
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *referent;
        if (PyWeakref_GetRef(weak, &referent) <= 0)
            return 0;
        Py_DECREF(referent); /* `object` is alive: at the same address it is the same */
        return referent == object;
    #else
        return PyWeakref_GET_OBJECT(weak) == object;
    #endif
    }
    """
    PyObject *rcmgr_current_context() noexcept
    bint rcmgr_refers_to(object weak, PyObject *object) noexcept
