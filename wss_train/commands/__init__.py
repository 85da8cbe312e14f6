"""The command `wss-train`: one file a group of commands."""

# Before the modules of the commands: from here on Ctrl-C while they are imported is one line, no traceback.
from wss_data.runtime import interrupts as interrupts
