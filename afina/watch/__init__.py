"""A run looked at from outside, while it goes on or afterwards: `reader` reads it, `frame` and the monitor show it."""
