"""The service's side: clusters are opened, steps and chunks are handed to them, their ends are taken."""
