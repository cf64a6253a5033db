"""Models of tasks, in μP and in SP."""
