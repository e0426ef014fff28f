"""The one decision on connections and streams."""
