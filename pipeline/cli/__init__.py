"""The command `pairsift`."""
