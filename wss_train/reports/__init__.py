"""What a run says: tables, ablations, checks, submissions."""
