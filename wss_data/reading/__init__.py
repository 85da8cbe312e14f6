"""Files and texts of unknown origin, read with care: tables, lists, YAML, JSON, names, terminal output."""
