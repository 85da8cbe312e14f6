"""Step 1: from class names to images on disk with their provenance: search, download, verify, shrink, journal."""
