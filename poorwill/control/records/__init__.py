"""What the store holds besides data: the documents that say what exists, is under way or was removed."""
