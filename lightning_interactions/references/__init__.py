"""Fitting reference models, and evidence that fits itself when training starts."""
