"""Image-to-video generation: what the flow adds to inference, and what survives."""
