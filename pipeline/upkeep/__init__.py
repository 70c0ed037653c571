"""Looking after outputs and work folders: is all of it whole, why is a row where it is, what may go, what must go."""
