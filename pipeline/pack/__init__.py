"""The shards: which row goes where, and its bytes copied there."""
