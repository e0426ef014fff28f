"""Limits over many nodes: the engine (Valkey) keeps what they share, and no decision waits."""
