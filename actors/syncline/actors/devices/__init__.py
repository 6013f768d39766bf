"""Devices: sockets, tokens, and one actor a connected device."""
