"""Gates: a request passes all of them, or one refuses it."""
