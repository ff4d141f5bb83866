"""What models take and compute on boards."""
