"""Reports of a node about itself, for people and for programs."""
