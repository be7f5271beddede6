"""The command line: thin over the library. Nothing here imports torch at module level."""
