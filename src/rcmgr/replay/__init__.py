"""The record of a node under other limits, and the limits that it suggests."""
