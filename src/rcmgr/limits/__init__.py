"""Values: what may be."""
