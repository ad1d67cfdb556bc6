"""One load offered by several processes, on one machine or many, and what they saw put together.

`split` divides the plan, `clocks` aligns the start, `worker` offers a part, `figures` adds up what the parts come to,
`merge` puts observations together, `ray_workers` runs it all on Ray.
"""
