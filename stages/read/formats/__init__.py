"""How each input format is parsed: streamed, row by row, with a failure code for what cannot be read."""
