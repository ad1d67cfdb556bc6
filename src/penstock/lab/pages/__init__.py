"""Pages that need nothing but themselves: documents of tables and plots, as HTML and as Markdown.

A page is a `document.Document`, a tree of blocks made by a pure function (`run_page`, `sweep_page`, `compare_page`) and
rendered by `render_html` or `render_markdown`. All text is escaped where it is rendered, never before.
"""
