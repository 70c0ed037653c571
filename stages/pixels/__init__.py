"""Images as bytes and arrays: what is checked of a file that strangers sent, and how it is decoded, resized and encoded."""
