"""Tables that people read: built as DataFrames, and written as Markdown, CSV or HTML by one module each."""
