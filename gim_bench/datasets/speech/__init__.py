"""Data sets of speech, and batches of windows."""
