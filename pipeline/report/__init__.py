"""What a run tells of itself: while it goes on, in run.json, in its log."""
