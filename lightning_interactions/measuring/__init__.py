"""One measurement: a model on fixed probes becomes a record; needs no Lightning."""
