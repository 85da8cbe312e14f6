"""Images and masks as arrays and as files."""
