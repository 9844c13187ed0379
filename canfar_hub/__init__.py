"""The command line: embedded mode and configuration checks."""
