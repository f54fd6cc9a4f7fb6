"""Where the memory is, how much a stretch of code took, and having it back."""
