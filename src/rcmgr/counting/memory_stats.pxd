"""For our other compiled modules."""

# whether `limits`, a MemoryGate, need not be asked; new_peer: as `MemoryConnectionLimits.excess`
cdef bint is_fine(object limits, bint new_peer) except -1
