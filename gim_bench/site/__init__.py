"""A static site of records: suites, a leaderboard, records of others, and checks over time.

`submissions` reads records of others, `again` compares a cell that ran again with its record, and
`verification` is the file that says how. `records`, `leaderboard`, `checks` and `front` make the
documents of the pages, `links` their links, `build` the files.
"""
