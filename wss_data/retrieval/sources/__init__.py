"""Where images come from: one file a source, one protocol in ``base``."""
