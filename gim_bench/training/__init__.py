"""Training: schedules, checkpoints, kept outputs, and what is measured of it."""
