"""The command `wss-train`: one file a group of commands."""
