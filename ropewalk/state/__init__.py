"""State: records, in memory and in SQLite.

Here: the database (WAL, one connection in the loop, schema versions), and Table: rows, prefix lookup, apply.
Not here: what the records are (pods/records.py, images/store.py), what they mean (pods/phases.py).
"""
