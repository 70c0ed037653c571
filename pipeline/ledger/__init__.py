"""The work folder: layers, payloads, generations, and what is known of rows across runs."""
