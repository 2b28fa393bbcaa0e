"""A snapshot becomes a workspace: empty, or over what stands there already."""
