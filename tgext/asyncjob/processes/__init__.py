"""Processes of this program: forked, watched, replaced, ended. None of this knows a job."""
