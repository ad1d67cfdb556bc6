"""Chains of models that are called like one: `declared` reads them, `chain` runs what comes before the answer."""
