"""From measurements to findings, as pure functions of records."""
