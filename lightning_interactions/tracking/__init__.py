"""Probe inputs, when to measure, and one measurement."""
