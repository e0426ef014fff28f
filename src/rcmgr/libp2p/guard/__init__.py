"""Questions that a host of libp2p 0.8.1 does not ask, and limits that it does not have."""
