"""The training loop: step, processes, metrics log."""
