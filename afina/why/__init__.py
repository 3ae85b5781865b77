"""The training rows behind an answer: ``afina why RUN "question"``.

effects.py            exact and cheap: what each source did to the losses, by forward passes
rows.py               the rows that were trained, encoded once each, with their files and lines
ekfac_torch.py        what a gradient of one row is worth: EK-FAC over the adapter's matrices, sketched
index.py              those sketches on the disk, in the run's folder ``why/``
indexing_torch.py     making and asking the index
unrolled_torch.py     a training differentiated: what each row's weight in it does to a loss at its end
through_training_torch.py   that of a run: its training done again, its states kept in ``why/training``
why.py                all of it for a run; table.py shows it in a terminal
"""
