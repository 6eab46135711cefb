"""What runs jobs: the worker and its threads, the attempt, and what follows from it."""
