"""Devices, their memory and their speed."""
