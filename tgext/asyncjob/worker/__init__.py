"""The worker of a process: its threads, the attempt of a job, and the outcome of an attempt."""
