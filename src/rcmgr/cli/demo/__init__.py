"""The demo: a guarded host under attack."""
