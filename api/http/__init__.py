"""What every request passes: ids, tokens, limits, and problems as answers."""
