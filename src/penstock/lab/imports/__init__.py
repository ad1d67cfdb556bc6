"""Results that other tools measured and tables that others published, as records: read, held against physics, named.

One file a format (`vllm`, `guidellm`, `aiperf`, `table`); `physics` judges any measurement, ours too.
"""
