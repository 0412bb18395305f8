"""A user's files in; class maps, tables and a page out."""
