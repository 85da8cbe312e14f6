"""Co-segmentation: one group in, one foreground mask an image out."""
