"""OpenAI's Files and Batches (https://platform.openai.com/docs/api-reference/batch): many requests, run behind
the others."""
