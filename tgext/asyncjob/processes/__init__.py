"""Processes: fork, supervise, replace and end them. Nothing here knows a job."""
