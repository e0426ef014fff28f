"""Observe the connections of a py-libp2p host."""
