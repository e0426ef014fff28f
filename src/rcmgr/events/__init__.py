"""Events of connections, and who observes them."""
