"""Records: what cells leave on disk, and what is made of their numbers."""
