"""`penstock bench tune`: the engine's settings that serve a stated load best, and how sure that is.

`settings` reads what is asked, `space` what may be tried, `objective` what counts. `search` holds all runs and decides
what to try next, what to drop and when to end; it knows no server. `trying` starts one and takes a run. `study` goes
through search, shortlist and verdict and keeps a journal of it; `evidence` writes what came of it.
"""
