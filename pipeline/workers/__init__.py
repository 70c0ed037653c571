"""What one worker does: a unit through consecutive stages."""
