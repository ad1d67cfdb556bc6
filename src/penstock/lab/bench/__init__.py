"""`penstock bench`: load offered to any endpoint, and what can be said of it afterwards.

One run, in order: a workload (`workloads/`) makes requests and an arrival process (`arrivals`) says when each is due;
`endpoint` turns them into HTTP; `offer` sends them through the native load generator, which notes every piece of text
(`observations`); `metrics` makes the field's figures of that, and `records` keeps them.
"""
