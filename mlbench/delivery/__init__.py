"""What makes a notebook a job: when it runs, and what to do about a time that was missed. Pure."""
