"""When to stop, and which state of a run to keep, without pixel truth."""
