"""What a run shows and what to change: `rules` is the table, `answer` what `afina doctor RUN` says and applies."""
