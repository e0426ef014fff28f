"""`rcmgr demo`: a guarded host under attack."""
