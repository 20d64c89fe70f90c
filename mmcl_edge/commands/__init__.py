"""The command line: one short file a command, imported only when that command runs."""
