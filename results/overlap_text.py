"""What tickets.py prints: its tables, a line a round, and what their tests say in words."""

import numpy as np

from results import overlap
from results.beside import special


def text_table(table):
    """A DataFrame as lines of text; numbers to four places, z to one, nan as -."""

    def show(column):
        places = 1 if column.name.startswith("z") else 4
        return column.map(f"{{:.{places}f}}".format, na_action="ignore")

    table = table.assign(**table.select_dtypes("float").apply(show))
    wide = [len(name) + 1 for name in table.columns]
    return table.to_string(index=False, na_rep="-", col_space=wide)


# as printed: the columns of overlap.csv that it is the mean of
COLUMNS = {
    "density": ["density_a", "density_b"], "Jaccard": ["jaccard"], "chance": ["jaccard_chance"],
    "z": ["z"], "given |t0|": ["jaccard_given_theta0"], "z |t0": ["z_given_theta0"],
    "given all": ["jaccard_given_margins"], "z all": ["z_given_margins"],
    "with own |t0|": ["theta0_jaccard_a", "theta0_jaccard_b"], "overlap": ["overlap"],
    "(chance)": ["overlap_chance"], "Hamming": ["hamming"], "(chance) ": ["hamming_chance"],
    "signs": ["sign_agreement"],
}  # fmt: skip
# columns of groups.csv, as printed
GROUP_COLUMNS = {
    "round": "round", "between": "between", "between_interval": "±",
    "between_same_order": "same order", "within": "ceiling", "margins": "given all",
    "theta0": "given |t0|", "chance": "chance", "difference": "ceiling - between",
    "difference_interval": "± ", "p": "p",
}  # fmt: skip
# columns of beside.csv, as printed
BESIDE_COLUMNS = {
    "round": "round", "name": "beside", "jaccard": "with a", "jaccard_interval": "±",
    "b_jaccard": "b with a", "difference": "difference", "difference_interval": "± ",
    "p": "p", "holm_p": "Holm p", "verdict": "than b's",
}  # fmt: skip


def ranged(values):
    """The mean of z over pairs and, of several, the smallest and the largest, as text."""
    mean, low, high = values.mean(), values.min(), values.max()
    if np.isnan(mean):
        return "-"
    places = 1 if max(abs(low), abs(high)) < 100 else 0
    told = [f"{value:.{places}f}" for value in (mean, low, high)]
    return told[0] if len(values) == 1 else f"{told[0]} ({told[1]}..{told[2]})"


def print_overlap(rows):
    """A line a round for the whole net, then one a layer of the last round.

    Each is the mean over pairs, z with its range over them (t0 is theta_0).
    """
    means = {name: rows[columns].mean(axis=1) for name, columns in COLUMNS.items()}
    shown = rows[["round", "layer", "share_theta0", "a", "b"]].assign(**means)

    def table(members, key):
        groups = members.groupby(key, sort=False)
        ranges = {name: groups[name].agg(ranged) for name in ("z", "z |t0", "z all")}
        return text_table(groups[[*COLUMNS]].mean().assign(**ranges).reset_index())

    last = rows["round"].max()
    # a mean over pairs that share theta_0 and pairs that don't would be of two different things
    for shared, members in sorted(shown.groupby("share_theta0"), reverse=True):
        pairs = members.groupby(["a", "b"]).ngroups
        over = f"mean of {pairs} pairs" if pairs > 1 else "one pair"
        print(f"{'one' if shared else 'different'} theta_0: whole net, {over}")
        print(table(members[members.layer == "total"], "round"))
        print(f"  by layer, round {last}")
        print(table(members[members["round"] == last], "layer"))


def print_groups(rows, names):
    """The groups' figures, a line a round, and what the test can say."""
    test = next(rows.iloc[[-1]].itertuples())
    over = f" (± 95 % over {test.theta0s} theta_0s)" if test.theta0s > 1 else ""
    print(f"{names[0]} (a) against {names[1]} (b), Jaccard index of the whole net{over}:")
    ranges = {
        f"{short} of pairs": [
            "-" if np.isnan(low) else f"{low:.1f}..{high:.1f}"
            for low, high in zip(rows[f"{name}_min"], rows[f"{name}_max"], strict=True)
        ]
        for name, short in zip(overlap.NULLS, ("z", "z |t0", "z all"), strict=True)
    }
    print(text_table(rows[[*GROUP_COLUMNS]].rename(columns=GROUP_COLUMNS).assign(**ranges)))
    if not test.within_pairs:
        why = "needs runs that differ in --order_seed only; so there is no p-value either"
        print(f"ceiling: not available: {why}")
    elif not test.theta0s:
        why = "given |t0| is empty, and there is neither an interval nor a p-value"
        print(f"note: the groups share no theta_0: all pairs are compared, {why}")
    elif not test.relabelings:
        print("note: no theta_0 has pairs both within and between the groups: no p-value")
    else:
        least = f"the smallest p that they can give is {test.smallest_p:.3g}"
        print(f"p: {test.relabelings} relabelings of the runs within each theta_0; {least}")
        if test.smallest_p > 0.05:
            more = "train more --seed or --order_seed"
            print(f"note: with that few runs the test cannot be significant at 0.05: {more}")
    if not np.isnan(test.between_same_order):
        own = "pairs of the same order (their own column) share their batches too"
        print(f"between: pairs of different --order_seed, as the ceiling's are; {own}")


def print_beside(rows, names):
    """The controls' overlap with a beside b's, a line a round and control, and what it says."""
    last = rows[rows["round"] == rows["round"].iloc[-1]]
    print(f"beside them, overlap with {names[0]} (a), minus that of {names[1]} (b):")
    print(text_table(rows[[*BESIDE_COLUMNS]].rename(columns=BESIDE_COLUMNS)))
    for row in last[last.theta0s < 2].itertuples():
        count = f"{row.theta0s} theta_0{'' if row.theta0s == 1 else 's'}"
        print(f"note: {row.name}: a, b and it have {count} in common; a test needs two or more")
    for row in last[last.same_order == 1].itertuples():
        print(f"note: {row.name}: pairs of one --order_seed are compared, for want of others")
    number = last["round"].iloc[0]
    print(f"{'mean of the rounds after 0' if number == 'all' else f'round {number}'}: ", end="")
    print(special(last, names))


def print_functions(found):
    """Barriers beside those of other theta_0s, a line a round, and what the tests say.

    Returns function-groups.csv, a DataFrame.
    """
    from results.function_groups import function_groups, told

    kinds = found.kind.replace("", "one theta_0")
    barriers = found.pivot_table("barrier", "round", kinds, "mean", sort=False).sort_index()
    print("barrier of linear paths, points, mean over pairs:")
    print(text_table(barriers.reset_index()))
    table = function_groups(found)
    for line in told(table):
        print(line)
    if table.empty:
        print("note: without pairs of one theta_0 and of others a low barrier says nothing")
    return table
