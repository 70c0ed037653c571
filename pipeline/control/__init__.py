"""What lets a run go on, and ends it: locks, stops, the guard."""
