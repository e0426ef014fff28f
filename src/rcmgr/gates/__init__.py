"""Who may, and by what."""
