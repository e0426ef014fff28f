"""Compiled: what is there."""
