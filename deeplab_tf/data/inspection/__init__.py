"""Records in, facts about them out."""
