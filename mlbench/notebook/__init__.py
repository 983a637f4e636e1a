"""Cells, steps, the graph between them, parameters and the document: pure, nothing is read from disk or run."""
