"""The transactions that enqueue, run and complete jobs. No module here knows a backend."""
