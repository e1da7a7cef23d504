"""Tests of the Lightning side, on real training runs of tiny models."""
