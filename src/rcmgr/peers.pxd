cpdef object peer_from_any(object peer)
cpdef str peer_text(object peer)
