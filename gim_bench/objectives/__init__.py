"""Objectives: one loss a file, as a function and as the head that a module is trained with."""
