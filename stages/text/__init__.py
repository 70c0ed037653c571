"""Stages that measure captions and URLs, and never drop a row."""
