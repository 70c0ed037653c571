"""Stages that look at the pixels of images."""
