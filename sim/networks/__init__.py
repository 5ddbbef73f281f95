"""The networks that a run can train."""
