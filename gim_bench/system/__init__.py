"""The operating system: files, locks, processes, signals."""
