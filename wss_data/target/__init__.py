"""The second road: a target dataset in VOC's layout; image-level labels to train on, masks for the final score."""
