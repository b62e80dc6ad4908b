"""What comes of runs.

import results
table = results.load("runs/*")                          # a row a run and round
table.groupby(["arm", "density"]).test_accuracy.mean()
net, masks, flags = results.load_ticket("runs/NAME", 5)  # a torch module for [0, 1] pixels
"""


def load(patterns):
    """The tidy table of run folders: results.table.load."""
    from results.table import load

    return load(patterns)


def load_ticket(run, round_number, **where):
    """The network of a round, its masks and its flags: results.ticket.load_ticket."""
    from results.ticket import load_ticket

    return load_ticket(run, round_number, **where)
