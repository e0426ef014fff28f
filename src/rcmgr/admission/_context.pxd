"""The current context (PEP 567), and whether a weak reference refers to it.

CPython has no public call for the current context: PyContext_CopyCurrent copies it. With a CPython
whose thread state has no such field, this does not compile.
"""

from cpython.object cimport PyObject


cdef extern from *:
    """
    /* Borrowed. NULL: this thread has no context yet. The first PyContextVar_Set makes it. */
    static inline PyObject *rcmgr_current_context(void)
    {
        return PyThreadState_Get()->context;
    }

    /* Whether `weak` is a weak reference to `object`, which must be alive: its address is its
     * identity then. */
    static inline int rcmgr_refers_to(PyObject *weak, PyObject *object)
    {
        if (!PyWeakref_Check(weak))
            return 0;
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *referent;
        if (PyWeakref_GetRef(weak, &referent) <= 0)
            return 0;
        Py_DECREF(referent);
        return referent == object;
    #else
        return PyWeakref_GET_OBJECT(weak) == object;
    #endif
    }
    """
    PyObject *rcmgr_current_context() noexcept
    bint rcmgr_refers_to(object weak, PyObject *object) noexcept
