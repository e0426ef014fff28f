"""Compiled: the counts of connections, scopes, tokens and denials, and the memory in use."""
