"""The command `wss-data`: one file a group of commands."""
