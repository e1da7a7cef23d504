"""Modules as users write them, unmodified, each with scores and losses computed by hand; written without a look at the package.

A situation is refused, warned of or right: ``test_situations.py`` trains each with and without a monitor.
"""
