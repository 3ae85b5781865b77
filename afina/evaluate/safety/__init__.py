"""Safety before and after training: what is given back of the training data, attacks, refusals, insults.

canaries   invented secrets among the training rows: how well they are known, and whether they are given back
known      personal data of the training rows: given back exactly?
sets       afina's own questions, Portuguese and English: injections, requests to refuse and harmless look-alikes
toxicity   answers with an insult
findings   all of these as plain values, and the limits that they miss

The sets and lists are JSON files in this folder. Each is judged by a plain rule, which stands with its reader.
"""
