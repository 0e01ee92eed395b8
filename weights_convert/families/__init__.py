"""The name tables, one file per architecture."""
