"""Probes: what frozen features tell."""
