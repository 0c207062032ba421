"""Objectives: one loss in each file, as a function and as the head that trains a module."""
