"""Settings: what a suite may say, and reading it."""
