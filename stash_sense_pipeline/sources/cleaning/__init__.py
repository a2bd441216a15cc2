"""Cleans fields of a source: text, partial dates, enumerations, times.

All connectors read their records through these functions, and no value is cleaned twice. SQLite and PostgreSQL can
store every result. The limits and their reasons:

- An index row of PostgreSQL has at most 2,704 bytes. The widest index of the catalog holds a source (up to 64), an id
  (`MAX_ID_BYTES`) and an address or alias (`MAX_TEXT_BYTES`): 2,364 bytes and about 30 for headers.
- Columns of whole numbers have 32 bits. Whole numbers in `raw` have up to 64 bits, which every JSON reader supports.
- PostgreSQL cannot store NUL and lone surrogates. NaN and the infinities are not valid JSON.
- A value above its limit is left out. It is never truncated: half a name or address is a different one.
"""
