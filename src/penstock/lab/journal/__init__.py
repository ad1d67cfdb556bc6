"""`penstock journal`: the notebook of a laboratory, kept in git beside the code it is about.

`layout` knows where things lie, `entries` what a day holds, `evidence` reads all Records there are. `begin`, `add` and
`promote` write; `figures`, `truth` and `check` hold what is written against the Records; `index`, `regions`, `plots`
and `site` draw from them; `matrix`, `compare`, `history` and `rerun` answer questions.
"""
