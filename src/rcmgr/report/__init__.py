"""What a node says of itself, for people and for machines."""
