"""What lies on disk: run folders, checkpoints, tables, files that appear whole."""
