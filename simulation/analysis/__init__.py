"""What is asked of a run once it is there."""
