"""`pairsift demo`: real photographs with captions of ours and planted faults, served on loopback and run like any list."""
