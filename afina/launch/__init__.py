"""``afina launch``: a recipe on a machine that is rented (SkyPilot), reached (ssh) or queued for (Slurm). What leaves
this machine is told first, what was made comes home before the machine goes."""
