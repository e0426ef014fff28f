"""Values: the limits of a node."""
