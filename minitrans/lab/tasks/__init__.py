"""What small models are trained on from scratch: generated tasks, and texts at byte level."""
