"""Tests of players, baselines, scores and evaluation."""
