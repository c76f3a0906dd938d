"""Lowering: how a program is written into each family of layers, one file a family."""
