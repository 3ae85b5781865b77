"""Measurements that others published, read as the planner's own terms."""
