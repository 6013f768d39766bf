"""Shapes: which rows, kept in logs on disk, merged into bundles for devices."""
