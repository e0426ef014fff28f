"""The record of a node: its decisions in a file, written while it runs."""
