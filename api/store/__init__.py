"""What the store holds, as clients see it."""
