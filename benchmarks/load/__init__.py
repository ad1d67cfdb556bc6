"""Load generators beside each other: what each adds to the delays of a server whose delays are known, and agreement."""
