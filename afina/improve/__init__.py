"""Rounds of a recipe until the verdict passes: `facts` reads what a run says of each fact, `moves` is the table of what
may be changed, `rows` the rows that are added, `rounds` what is decided of the run folders, `improve` does it."""
