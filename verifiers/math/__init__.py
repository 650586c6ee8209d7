"""Judges a mathematical answer against a gold answer, gold first, and says which rule decided."""
