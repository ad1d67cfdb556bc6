"""Models that read a text whole: embedders, rerankers and classifiers, in a process of their own."""
