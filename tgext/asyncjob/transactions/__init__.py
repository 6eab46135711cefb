"""Which transaction enqueues, runs and completes a job. None of this knows a backend."""
