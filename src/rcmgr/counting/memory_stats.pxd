"""For our other compiled modules: a memory limit without the cost of a Python call."""

# Whether `limits`, a MemoryGate, allow more without a new check. new_peer: see
# `MemoryConnectionLimits.excess`.
cdef bint is_fine(object limits, bint new_peer) except -1
