"""Tests of probes, measurements and schedules."""
