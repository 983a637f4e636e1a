"""What runs in the processes of steps: a warm server forks them, they run a cell or items, and say what came of it."""
