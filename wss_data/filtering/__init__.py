"""Step 3: which images with masks take part in training: foreground ratio, repeats and leaks, verdicts, oddness."""
