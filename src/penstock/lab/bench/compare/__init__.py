"""`penstock bench compare`: the same load on several engines, in pairs, and what the ratios allow to be said.

`contenders` says who takes part and brings each up; `order` who runs when; `running` runs; `judging` makes figures,
ratios, verdicts and an outcome of the runs; `tokens` checks what engines count; `keeping` writes records and the page.
"""
