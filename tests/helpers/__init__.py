"""Slow independent oracles and games with known answers."""
