"""What a node reports about itself, for people and for programs."""
